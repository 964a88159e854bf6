"""The tables of the database. A change here needs a revision in `migrations`.

Times are ms since 1970 unless a comment says otherwise. Columns of the type `AnyText` hold text
that clients or the cloud choose: it may contain what a database refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

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
from sqlalchemy.types import TypeDecorator, TypeEngine

#: NUL, which PostgreSQL refuses, surrogates, which no UTF-8 has, and the escape character itself.
_REFUSED = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")


class AnyText(TypeDecorator[str]):
    """Text with any characters, compared and sorted by code point."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """`TEXT`, in PostgreSQL with the collation that SQLite has."""
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(Text(collation=collation))

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        """Makes a text what is stored, without what `TypeDecorator` does around it."""
        return lambda value: None if value is None else escaped(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:
        """The text as it was."""
        if value is None or "\x1a" not in value:
            return value
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)


def escaped(text: str) -> str:
    """The text in characters that every database takes."""
    return _REFUSED.sub(lambda match: f"\x1a{ord(match[0]):04x}", text)


#: `BIGINT`, or in SQLite the `INTEGER` that a growing key must be.
_KEY = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: Jobs that have not ended. `key` counts all jobs as they came and is never used again.
jobs = Table(
    "jobs",
    metadata,
    Column("key", _KEY, primary_key=True, autoincrement=True),
    Column("member", AnyText, nullable=False),
    Column("id", AnyText, nullable=False),
    Column("state", Text, nullable=False),
    Column("number", Text, nullable=False),  # JSON: the client's may be of any size
    Column("client_id", AnyText),
    Column("workflow_id", AnyText),
    Column("account", AnyText, nullable=False),
    Column("cloud_id", AnyText),
    Column("created_at", BigInteger, nullable=False),
    Column("changed_at", BigInteger, nullable=False),  # when it came into its state
    Column("started_at", BigInteger),
    Column("outputs_to_execute", Text, nullable=False),  # JSON
    Column("watched", Boolean, nullable=False),
    Column("accepted", Boolean, nullable=False),  # the client may know of it
    Column("one_at_a_time", Boolean, nullable=False),  # it waits for others of its client
    Column("submitter", Text, nullable=False),  # a digest of what tells programs apart
    Column("cancel_requested", Boolean, nullable=False),
    Column("charge", Double, nullable=False),
    Column("reason", AnyText),  # why it waits or cannot be followed
    Column("label", AnyText, nullable=False),  # what people call it: a workflow or a model
    UniqueConstraint("member", "id"),
    Index("ix_jobs_cloud_id", "cloud_id"),
    sqlite_autoincrement=True,
)

#: The number that a member's next job gets, and the last place in the member's history.
job_numbers = Table(
    "job_numbers",
    metadata,
    Column("member", AnyText, primary_key=True),
    Column("next", BigInteger, nullable=False, server_default=text("0")),
    Column("ended", BigInteger, nullable=False, server_default=text("0")),
)

#: What a client sent, written once, by the key of the job; kept as long as the job or its history.
job_payloads = Table(
    "job_payloads",
    metadata,
    Column("key", _KEY, primary_key=True, autoincrement=False),
    Column("graph", LargeBinary, nullable=False),  # JSON
    Column("extra_data", LargeBinary, nullable=False),  # JSON, credentials removed
    Column("targets", LargeBinary),  # JSON
    Column("rewriting", LargeBinary),  # JSON: what the cloud runs instead of helper nodes
    Column("credentials", LargeBinary),  # JSON, encrypted; NULL once the job was sent
)

#: Jobs that have ended, by the key of their payload. `sequence` is the place in the history.
history = Table(
    "history",
    metadata,
    Column("key", _KEY, primary_key=True, autoincrement=False),
    Column("member", AnyText, nullable=False),
    Column("id", AnyText, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("number", Text, nullable=False),  # JSON
    Column("workflow_id", AnyText),
    Column("client_id", AnyText),
    Column("cloud_id", AnyText),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("outputs_to_execute", Text, nullable=False),  # JSON
    Column("summary", LargeBinary, nullable=False),  # JSON, as lists of jobs show it
    Column("result", LargeBinary, nullable=False),  # JSON object: outputs, status, meta
    Column("label", AnyText, nullable=False),
    Column("details", LargeBinary, nullable=False),  # JSON object: account, times of nodes, cost
    UniqueConstraint("member", "id"),
    Index("ix_history_member_sequence", "member", "sequence", unique=True),
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
    Index("ix_history_searched", "ended_at", "member", "label", "id"),
    Index("ix_history_member_ended_at", "member", "ended_at"),
    Index("ix_history_state_ended_at", "state", "ended_at"),
)

#: A member's jobs in an interval that begins at `at`; of everybody where `member` is empty. Running
#: and waiting ones are the most at once, `busy` the seconds that jobs ran, one beside the other.
activity = Table(
    "activity",
    metadata,
    Column("at", BigInteger, nullable=False),
    Column("member", AnyText, nullable=False),
    Column("running", BigInteger, nullable=False),
    Column("waiting", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("busy", Double, nullable=False),
    PrimaryKeyConstraint("at", "member"),
    sqlite_with_rowid=False,
)

#: How an account was in an interval: its slots, the most that were used at once, and why it took no
#: jobs, empty if it took them.
account_activity = Table(
    "account_activity",
    metadata,
    Column("at", BigInteger, nullable=False),
    Column("account", AnyText, nullable=False),
    Column("slots", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("at", "account"),
    sqlite_with_rowid=False,
)

#: Fair shares: when a member's next job starts in virtual time, and how long its jobs run (s).
shares = Table(
    "shares",
    metadata,
    Column("member", AnyText, primary_key=True),
    Column("start", Double),
    Column("typical", Double),
)

#: Local names and what is behind them. `modified` is in seconds since 1970; `job` is the id of the
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

#: Exports of assets: `key` tells equal requests, `name` is the archive's, `entries` (JSON) are its
#: files. `updated_at` moves while somebody works at it.
asset_exports = Table(
    "asset_exports",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("id", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),  # JSON
    Column("result", LargeBinary),  # JSON
    Column("entries", LargeBinary),  # JSON
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    PrimaryKeyConstraint("member", "id"),
    Index("ix_asset_exports_member_key", "member", "key"),
    Index("ix_asset_exports_member_name", "member", "name"),
    sqlite_with_rowid=False,
)

#: Pictures that clients put by an id, and results under the ids that were sent. A result has no
#: `data` but the file of the account that it is made of; `signature` and `position` are its
#: node's. `used_at` is when it was put or loaded last, `fetched` how often it was read.
helper_pictures = Table(
    "helper_pictures",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("id", AnyText, nullable=False),
    Column("content_type", AnyText, nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("data", LargeBinary),
    Column("fetched", BigInteger, nullable=False),
    Column("account", AnyText),
    Column("cloud_name", AnyText),
    Column("cloud_type", Text),
    Column("encoding", Text),
    Column("signature", Text),
    Column("position", BigInteger, nullable=False),
    PrimaryKeyConstraint("member", "id"),
    Index("ix_helper_pictures_member_signature", "member", "signature"),
    Index("ix_helper_pictures_used_at", "used_at"),
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

#: Members by their name in small letters. A removed one keeps its row, so that nobody else gets
#: the name and the data.
members = Table(
    "members",
    metadata,
    Column("key", AnyText, primary_key=True),
    Column("name", AnyText, nullable=False),
    Column("removed", Boolean, nullable=False),
    Column("data", LargeBinary, nullable=False),  # JSON: role, weight, limits and so on
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("member", AnyText, nullable=False),
    Column("digest", Text, nullable=False),
    Column("note", AnyText, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("used_at", BigInteger),
    Column("used_from", AnyText),
    Index("ix_tokens_member", "member"),
)

#: Browser sessions by the SHA-256 of their secret.
sessions = Table(
    "sessions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("token", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Index("ix_sessions_token", "token"),
)

#: What a member used on a day (UTC).
usage = Table(
    "usage",
    metadata,
    Column("day", Text, nullable=False),
    Column("member", AnyText, nullable=False),
    Column("submitted", BigInteger, nullable=False),
    Column("withdrawn", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
    Column("running_seconds", Double, nullable=False),
    Column("outputs", BigInteger, nullable=False),
    Column("bytes_up", BigInteger, nullable=False),
    Column("bytes_down", BigInteger, nullable=False),
    PrimaryKeyConstraint("day", "member"),
    sqlite_with_rowid=False,
)

audit = Table(
    "audit",
    metadata,
    Column("key", _KEY, primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("member", AnyText, nullable=False),
    Column("entry", LargeBinary, nullable=False),  # JSON
    Index("ix_audit_at", "at"),
    Index("ix_audit_member", "member"),
    Index("ix_audit_action", "action"),
)

#: What members keep with the proxy: settings, workflows, subgraphs. The path of a folder ends with
#: a slash.
userdata = Table(
    "userdata",
    metadata,
    Column("member", AnyText, nullable=False),
    Column("path", AnyText, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created", Double, nullable=False),  # seconds since 1970
    Column("modified", Double, nullable=False),  # seconds since 1970
    Column("data", LargeBinary, nullable=False),  # last: what is before it is read without it
    PrimaryKeyConstraint("member", "path"),
)

#: Who may do what only one replica may do. `expires` is by the clock of the database.
leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
)

#: What was observed of an account (`identity` as in `blobs`): a measured fact, or a form of answers
#: and events that is in no document, with one example, counted.
observations = Table(
    "observations",
    metadata,
    Column("identity", AnyText, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", AnyText, nullable=False),
    Column("value", LargeBinary, nullable=False),  # JSON
    Column("count", BigInteger, nullable=False),
    Column("first_at", BigInteger, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("identity", "kind", "name"),
    sqlite_with_rowid=False,
)

#: Single values, as JSON: revisions, learned facts, marks of what was done once.
meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
