"""The rows of files: local names and their contents, and the assets that clients list."""

from __future__ import annotations

import posixpath

from msgspec import Struct
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
)

from proxy.storage.tables import AnyText, PlainText, metadata, table_of
from proxy.translate.names import Place


class FileRecord(Struct, frozen=True):
    """A local name and the content behind it; `path` is below the folder of the `type`.

    `account` has it: it is that of the job that made it (`job` is its id), or the first that it was
    sent to. `cloud_name` is opaque and used verbatim; `cloud_type` is the folder under which the
    cloud has it (uploads are always `input` there). `hash` is the content's BLAKE3 in hexadecimal
    and `size` its length in bytes, both `None` until the content was seen. `modified` is in
    seconds since 1970.
    """

    member: str
    type: PlainText
    path: str
    cloud_name: str
    cloud_type: PlainText
    hash: PlainText | None
    size: int | None
    media_type: str
    modified: float
    account: str
    job: str | None = None

    @property
    def subfolder(self) -> str:
        """What of the path is before the name."""
        return posixpath.dirname(self.path)

    @property
    def filename(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.path)

    @property
    def place(self) -> Place:
        """Where the member finds the file."""
        return Place(self.type, self.path)


files = table_of(
    FileRecord,
    "files",
    Index("ix_files_member_cloud_name", "member", "cloud_name"),
    Index("ix_files_member_hash", "member", "hash"),
    Index("ix_files_member_job", "member", "job"),
    keys=("member", "type", "path"),
    rowid=False,
)

#: The highest counter that a name with this stem has had; it outlives the files.
file_counters = Table(
    "file_counters",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("type", Text, nullable=False),
    Column("subfolder", AnyText, nullable=False),
    Column("stem", AnyText, nullable=False),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("member", "type", "subfolder", "stem"),
    sqlite_with_rowid=False,
)

#: The names that the outputs of a node have been given, as JSON.
outputs = Table(
    "outputs",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("job", AnyText, nullable=False),
    Column("node", AnyText, nullable=False),
    Column("given", LargeBinary, nullable=False),
    PrimaryKeyConstraint("member", "job", "node"),
    sqlite_with_rowid=False,
)

#: Assets: records of contents, as clients list and label them. `type` is a folder of `files`, or
#: `models`, where the path begins with the model's folder. `hash` (BLAKE3) and `size` are the
#: content's own, `NULL` until they are known; `job` made it, `preview` is the id of another asset.
#: Times are in microseconds since 1970. A deleted one keeps its row, so that nothing lists it
#: again.
assets = Table(
    "assets",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("id", Text, nullable=False),
    Column("name", AnyText, nullable=False),
    Column("type", Text, nullable=False),
    Column("path", AnyText, nullable=False),
    Column("hash", Text),
    Column("size", BigInteger),
    Column("media_type", AnyText),
    Column("job", AnyText),
    Column("preview", Text),
    Column("user_metadata", LargeBinary, nullable=False),  # JSON
    Column("metadata", LargeBinary),  # JSON
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("last_access_time", BigInteger),
    Column("deleted", Boolean, nullable=False),
    PrimaryKeyConstraint("member", "id"),
    Index("ix_assets_member_created_at_id", "member", "created_at", "id"),
    Index("ix_assets_member_type_path", "member", "type", "path"),
    Index("ix_assets_member_hash", "member", "hash"),
    Index("ix_assets_member_job", "member", "job"),
    Index("ix_assets_member_preview", "member", "preview"),
    sqlite_with_rowid=False,
)

#: The tags of assets. An `automatic` one is the proxy's; one that was removed is not `present`, and
#: is listed as one that no asset has.
asset_tags = Table(
    "asset_tags",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("asset", Text, nullable=False),
    Column("tag", AnyText, nullable=False),
    Column("automatic", Boolean, nullable=False),
    Column("present", Boolean, nullable=False),
    PrimaryKeyConstraint("member", "asset", "tag"),
    Index("ix_asset_tags_member_tag", "member", "tag"),
    sqlite_with_rowid=False,
)


class AccountBlob(Struct, frozen=True):
    """A content that the account with this identity was sent, or that was fetched from it."""

    identity: str
    cloud_name: str
    sent: bool
    hash: PlainText
    size: int
    seen_at: int


blobs = table_of(
    AccountBlob,
    "blobs",
    Index("ix_blobs_hash", "hash"),
    Index("ix_blobs_cloud_name", "cloud_name"),
    keys=("identity", "cloud_name", "sent"),
    rowid=False,
)
