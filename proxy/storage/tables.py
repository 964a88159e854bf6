"""The tables of the database, but for those of a single module, which makes them with `table_of`.

A change of a table needs a revision in `migrations`.

Times are ms since 1970 unless a comment says otherwise. Columns of the type `AnyText` hold text
that clients or the cloud choose: it may contain what a database refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeDecorator, TypeEngine

from proxy.translate import codec

#: NUL, which PostgreSQL refuses, surrogates, which no UTF-8 has, and the escape character itself.
_REFUSED = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")


class AnyText(TypeDecorator[str]):
    """Text with any characters, compared and sorted by code point."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return `TEXT`, in PostgreSQL with the collation that SQLite has."""
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(Text(collation=collation))

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        """Return the text as it is stored."""
        return None if value is None else escaped(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:
        """Return the text as it was."""
        if value is None or "\x1a" not in value:
            return value
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)


class JsonText(TypeDecorator[Any]):
    """A value as JSON: a number of any size, or a tuple of text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str:
        """Return the JSON."""
        return codec.dumps(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any:
        """Return the value."""
        found = None if value is None else codec.loads(value)
        return tuple(found) if isinstance(found, list) else found


def escaped(text: str) -> str:
    """Return the text in characters that every database accepts."""
    return _REFUSED.sub(lambda match: f"\x1a{ord(match[0]):04x}", text)


#: `BIGINT`, or in SQLite the `INTEGER` that a growing key must be.
KEY = BigInteger().with_variant(Integer, "sqlite")

#: Text of our own, which every database takes as it is.
PlainText: TypeAlias = str

#: The types of columns, by the annotations of the fields that they hold.
_TYPES: Mapping[str, type[TypeEngine[Any]]] = {
    "str": AnyText,
    "PlainText": Text,
    "int": BigInteger,
    "float": Double,
    "bool": Boolean,
    "bytes": LargeBinary,
}

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def table_of(
    row: type, name: str, *parts: SchemaItem, keys: Sequence[str] = (), rowid: bool = True
) -> Table:
    """Return the table of a struct: a column for each field, and other `parts`. The primary key is
    `keys`; without `rowid` SQLite sorts the rows by it."""
    columns = []
    for field, annotation in row.__annotations__.items():
        kind = annotation.removesuffix(" | None")
        columns.append(Column(field, _TYPES[kind], nullable=kind != annotation))
    if keys:
        parts = (PrimaryKeyConstraint(*keys), *parts)
    return Table(name, metadata, *columns, *parts, sqlite_with_rowid=rowid)


#: Jobs that have not ended. `order` counts all jobs as they came and is never used again.
jobs = Table(
    "jobs",
    metadata,
    Column("order", KEY, primary_key=True, autoincrement=True),
    Column("member", AnyText, nullable=False),
    Column("prompt_id", AnyText, nullable=False),
    Column("state", Text, nullable=False),
    Column("number", JsonText, nullable=False),  # the client's may be of any size
    Column("client_id", AnyText),
    Column("workflow_id", AnyText),
    Column("account", AnyText, nullable=False),
    Column("cloud_id", AnyText, nullable=False),  # empty before the cloud has the job
    Column("created_at", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),  # grows with each change
    Column("started_at", BigInteger),
    Column("outputs_to_execute", JsonText, nullable=False),
    Column("watched", Boolean, nullable=False),
    Column("accepted", Boolean, nullable=False),  # the client may know of it
    Column("one_at_a_time", Boolean, nullable=False),  # it waits for others of its client
    Column("submitter", Text, nullable=False),  # a digest of what tells programs apart
    Column("token", Text, nullable=False),  # the id of the token that it was sent with, or empty
    Column("trace", Text, nullable=False),  # the `traceparent` of its request, or empty
    Column("cancel_requested", Boolean, nullable=False),
    Column("interrupted", Boolean, nullable=False),
    Column("charge", Double, nullable=False),
    Column("label", AnyText, nullable=False),  # what people call it: a workflow or a model
    Column("estimate", BigInteger, nullable=False),  # of its cost, in millionths of a credit
    Column("shape", Text, nullable=False),  # of its graph, where the estimate follows its runs
    Column("partner_nodes", BigInteger, nullable=False),  # their part of the estimate
    Column("ceiling", BigInteger, nullable=False),  # what it may cost at most once it is sent
    UniqueConstraint("member", "prompt_id"),
    Index("ix_jobs_cloud_id", "cloud_id"),
    Index("ix_jobs_member_estimate", "member", "estimate"),
    sqlite_autoincrement=True,
)

#: The number that a member's next job gets, and how many jobs of the member have ended.
job_numbers = Table(
    "job_numbers",
    metadata,
    Column("member", AnyText, primary_key=True),
    Column("next", BigInteger, nullable=False, server_default=text("0")),
    Column("ended", BigInteger, nullable=False, server_default=text("0")),
)

#: What a client sent, written once, by the order of the job; kept as long as the job or its
#: history.
job_payloads = Table(
    "job_payloads",
    metadata,
    Column("order", KEY, primary_key=True, autoincrement=False),
    Column("graph", LargeBinary, nullable=False),  # JSON
    Column("extra_data", LargeBinary, nullable=False),  # JSON, credentials removed
    Column("targets", LargeBinary),  # JSON
    Column("rewriting", LargeBinary),  # JSON: what the cloud runs instead of helper nodes
    Column("credentials", LargeBinary),  # JSON, encrypted; NULL once the job was sent
)

#: Jobs that have ended, with the order that they had. `sequence` is the place in the history, and
#: `ordinal` counts the member's ends in the order in which they were written; the two differ where
#: an id was used again.
history = Table(
    "history",
    metadata,
    Column("order", KEY, primary_key=True, autoincrement=False),
    Column("member", AnyText, nullable=False),
    Column("prompt_id", AnyText, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("ordinal", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("number", JsonText, nullable=False),
    Column("workflow_id", AnyText),
    Column("client_id", AnyText),
    Column("cloud_id", AnyText, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("outputs_to_execute", JsonText, nullable=False),
    Column("summary", LargeBinary, nullable=False),  # JSON, as lists of jobs show it
    Column("result", LargeBinary, nullable=False),  # JSON object: outputs, status, meta
    Column("label", AnyText, nullable=False),
    Column("details", LargeBinary, nullable=False),  # JSON object: account, cost
    Column("node_times", LargeBinary, nullable=False),  # JSON object: when each began, how long
    UniqueConstraint("member", "prompt_id"),
    Index("ix_history_member_sequence", "member", "sequence", unique=True),
    Index("ix_history_member_ordinal", "member", "ordinal", unique=True),
    Index(
        "ix_history_listed",
        "member",
        "created_at",
        "state",
        "workflow_id",
        "started_at",
        "ended_at",
        "sequence",
    ),
    Index("ix_history_cloud_id", "cloud_id"),
    Index("ix_history_searched", "ended_at", "member", "label", "prompt_id"),
    Index("ix_history_member_ended_at", "member", "ended_at"),
    Index("ix_history_state_ended_at", "state", "ended_at"),
)

#: Fair shares: when a member's next job starts in virtual time, and how long its jobs run (s).
shares = Table(
    "shares",
    metadata,
    Column("member", AnyText, primary_key=True),
    Column("start", Double),
    Column("typical", Double),
)

#: Local names and their contents. `modified` is in seconds since 1970; `job` is the id of the
#: job that made the file.
files = Table(
    "files",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("type", Text, nullable=False),
    Column("path", AnyText, nullable=False),
    Column("cloud_name", AnyText, nullable=False),
    Column("cloud_type", Text, nullable=False),
    Column("hash", Text),
    Column("size", BigInteger),
    Column("media_type", AnyText, nullable=False),
    Column("modified", Double, nullable=False),
    Column("account", AnyText, nullable=False),
    Column("job", AnyText),
    PrimaryKeyConstraint("member", "type", "path"),
    Index("ix_files_member_cloud_name", "member", "cloud_name"),
    Index("ix_files_member_hash", "member", "hash"),
    Index("ix_files_member_job", "member", "job"),
    sqlite_with_rowid=False,
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

#: Contents that an account (`identity`: its cloud and its name; empty for any) was sent or had.
blobs = Table(
    "blobs",
    metadata,
    Column("identity", AnyText, nullable=False),
    Column("cloud_name", AnyText, nullable=False),
    Column("sent", Boolean, nullable=False),
    Column("hash", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("identity", "cloud_name", "sent"),
    Index("ix_blobs_hash", "hash"),
    Index("ix_blobs_cloud_name", "cloud_name"),
    sqlite_with_rowid=False,
)

#: Leases for work that only one replica may do; what counts once has the epoch 0. `expires` is by
#: the clock of the database.
leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
)

#: Single values, as JSON: revisions, learned facts, marks of what was done once.
meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
