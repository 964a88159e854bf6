"""Migrates the records of version 0.1.0, which kept documents by collection and key.

Its two files go to the folder `data-0.1.0` first, where they stay as a copy, and are read from
there in one unit: a start that is interrupted begins again, and one that is done is not repeated.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import structlog
from sqlalchemy import Connection, text

from proxy.storage.database import Database, StorageError
from proxy.storage.files import AccountBlob, FileRecord, FileUnit
from proxy.storage.history import EndedJob, add_history
from proxy.storage.jobs import (
    Payload,
    Share,
    Shares,
    StoredJob,
    add_job,
    add_payload,
    day_of,
    put_shares,
)
from proxy.storage.members import StoredMember, StoredSession, StoredToken, put_members, put_session
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.usage import UsageRow, add_usage
from proxy.translate import codec
from proxy.translate.jobs import label_of

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The files of 0.1.0, and where they go.
RECORDS, MEMBERS = "proxy.sqlite", "members.sqlite"
KEPT = "data-0.1.0"

_DONE = "migrated_from_0_1_0"

#: Collections of `proxy.sqlite`, and those that hold nothing to keep.
_KNOWN = frozenset({"jobs", "history", "turns", "files", "contents", "outputs", "usage"})
_MARKS, _PROBE = "usage_marks", "readiness"

_STATES = {"completed": "succeeded", "failed": "failed", "cancelled": "cancelled"}
_HASH_NAME = re.compile(r"(?:blake3:)?(?P<hash>[0-9a-f]{64})(?:\.\w+)?", re.IGNORECASE)


class LegacyError(StorageError):
    """Records of 0.1.0 that cannot be migrated; nothing was changed."""


async def take_over(folder: Path, database: Database) -> bool:
    """Bring records of 0.1.0 in the folder into the database; says whether there were any. Nobody
    else may use the folder. Raises `LegacyError`, `StorageError`."""
    found = [folder / name for name in (RECORDS, MEMBERS) if (folder / name).exists()]
    done = await database.read(lambda connection: get_meta(connection, _DONE))
    kept = folder / KEPT
    if done:
        if found:
            raise LegacyError(
                f"{found[0]} was written by version 0.1.0 after its records were migrated: move it "
                "out of the data folder, or into the folder of version 0.1.0"
            )
        return False
    for path in found:
        _set_aside(path, kept)
    if not (kept / RECORDS).exists() and not (kept / MEMBERS).exists():
        return False
    try:
        counts = await database.write(lambda connection: _take_over(connection, kept))
    except TypeError as error:
        raise LegacyError(
            f"the records of version 0.1.0 in {kept} have a value of another type ({error}): "
            "repair it with sqlite3, or move the files out of the data folder to start without them"
        ) from error
    log.info("records_imported", before="0.1.0", kept_in=str(kept), **counts)
    return True


def _set_aside(path: Path, kept: Path) -> None:
    """Move a file of 0.1.0 with all that is in its log. Raises `LegacyError`."""
    target = kept / path.name
    if target.exists():
        raise LegacyError(
            f"{path} and {target} are both records of version 0.1.0: move one of them out of the "
            "data folder"
        )
    try:
        kept.mkdir(mode=0o700, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        path.rename(target)
    except (sqlite3.Error, OSError) as error:
        raise LegacyError(
            f"the records of version 0.1.0 in {path} cannot be read ({error}): restore the file "
            "from a backup, or move it out of the data folder to start without its records"
        ) from error


def keep_folder(folder: Path) -> Path:
    """Move a folder of 0.1.0 to those that are kept in its data folder, under a free name; where it
    is now. Raises `OSError`."""
    kept = folder.parent / KEPT
    kept.mkdir(mode=0o700, exist_ok=True)
    number, target = 1, kept / folder.name
    while target.exists():
        number += 1
        target = kept / f"{folder.name}-{number}"
    return folder.rename(target)


def _take_over(connection: Connection, kept: Path) -> dict[str, int]:
    """Write all that there is, in the caller's unit; how much of each collection."""
    counts: dict[str, int] = {}
    if (kept / RECORDS).exists():
        with contextlib.closing(_Old(kept / RECORDS)) as old:
            _refuse_unknown(old)
            counts["history"] = _history(connection, old)
            counts["jobs"] = _jobs(connection, old, counts["history"])
            counts["files"] = _files(connection, old)
            _contents(connection, old)
            _usage(connection, old)
            old.read("turns", lambda _, data: put_shares(connection, _shares(codec.loads(data))))
    if (kept / MEMBERS).exists():
        with contextlib.closing(_Old(kept / MEMBERS)) as old:
            counts["members"] = _members(connection, old)
    put_meta(connection, _DONE, True)
    return counts


class _Old:
    """A file of 0.1.0 that is open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path)
        self.close = self._connection.close

    def collections(self) -> set[str]:
        """The names of all collections."""
        query = "SELECT DISTINCT collection FROM documents"
        with self.reading("documents", ""):
            return {str(name) for (name,) in self._connection.execute(query)}

    def scan(self, collection: str) -> Iterator[tuple[str, bytes]]:
        """All documents of a collection, by key."""
        query = "SELECT key, value FROM documents WHERE collection = ? ORDER BY key"
        with self.reading(collection, ""):
            for key, value in self._connection.execute(query, (collection,)):
                yield str(key), bytes(value)

    def read(self, collection: str, make: Callable[[str, bytes], T]) -> list[T]:
        """What is made of each document and its key."""
        found = []
        for key, data in self.scan(collection):
            with self.reading(collection, key):
                found.append(make(key, data))
        return found

    def get(self, collection: str, key: str) -> bytes:
        """A document that there is."""
        query = "SELECT value FROM documents WHERE collection = ? AND key = ?"
        ((value,),) = self._connection.execute(query, (collection, key))
        return bytes(value)

    @contextlib.contextmanager
    def reading(self, collection: str, key: str) -> Iterator[None]:
        """What fails in the block fails because of this document."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, sqlite3.DatabaseError) as error:
            raise LegacyError(
                f"the record {collection}/{key} of version 0.1.0 in {self.path} cannot be read "
                f"({type(error).__name__}: {error}): repair or delete it with sqlite3, or move the "
                "file out of the data folder to start without its records"
            ) from error


def _refuse_unknown(old: _Old) -> None:
    unknown = old.collections() - _KNOWN - {_MARKS, _PROBE}
    if unknown:
        raise LegacyError(
            f"{old.path} has records that are not known ({', '.join(sorted(unknown))}): another "
            "version than 0.1.0 wrote it"
        )


# --- jobs ----------------------------------------------------------------------------------


def _history(connection: Connection, old: _Old) -> int:
    """Take over the history; how many entries there were, which is the last key that was given."""
    order = old.read("history", lambda key, data: (int(_head(data)["sequence"]), key))
    for number, (_, key) in enumerate(sorted(order), 1):
        with old.reading("history", key):
            job, payload, ended = _ended(old.get("history", key))
            job.key = number
            add_history(connection, job, ended)
            add_payload(connection, number, payload)
    return len(order)


def _head(data: bytes) -> Any:
    """What is before the entry itself."""
    return codec.loads(data.partition(b"\n")[0])


def _ended(data: bytes) -> tuple[StoredJob, Payload, EndedJob]:
    head, entry = _head(data), codec.loads(data.partition(b"\n")[2])
    number, prompt_id, graph, extra_data, outputs_to_execute = entry["prompt"]
    summary = head["summary"]
    state = _STATES[head["outcome"]]
    started = int(summary["execution_start_time"])
    job = StoredJob(
        member=str(head["member"]),
        id=str(prompt_id),
        state=state,
        number=number,
        created_at=int(summary["create_time"]),
        changed_at=started,
        workflow_id=head["workflow_id"],
        cloud_id=head["cloud_id"] or None,
        label=label_of(graph, extra_data),
    )
    result = {name: entry[name] for name in ("outputs", "status", "meta")}
    ended = EndedJob(
        state=state,
        started_at=started,
        ended_at=int(summary["execution_end_time"]),
        summary=codec.dump_bytes(summary),
        result=codec.dump_bytes(result),
        outputs_to_execute=list(outputs_to_execute),
    )
    return job, Payload(codec.dump_bytes(graph), codec.dump_bytes(extra_data)), ended


def _jobs(connection: Connection, old: _Old, last: int) -> int:
    """Take over the jobs that live, as they came, with keys behind the last one."""

    def read(key: str, data: bytes) -> tuple[int, int, str, StoredJob, Payload]:
        record = codec.loads(data)
        job, payload = _live(record)
        return int(record["order"]), job.created_at, key, job, payload

    found = sorted(old.read("jobs", read), key=itemgetter(0, 1, 2))
    for number, (*_, job, payload) in enumerate(found, last + 1):
        job.key = number
        add_job(connection, job)
        add_payload(connection, number, payload)
    _go_on_behind(connection, last + len(found))
    return len(found)


def _live(record: Mapping[str, Any]) -> tuple[StoredJob, Payload]:
    started = record["started_at"]
    created = int(record["create_time"])
    if record["cloud_id"]:
        state = "submitted" if started is None else "running"
    else:
        waits = record["accepted"] and not record["account"]
        state = "queued" if waits else "submitting"
    targets = record["targets"]
    job = StoredJob(
        member=str(record["member"]),
        id=str(record["prompt_id"]),
        state=state,
        number=record["number"],
        created_at=created,
        changed_at=created if started is None else int(started),
        client_id=record["client_id"],
        workflow_id=_workflow_id(record["extra_data"]),
        account=record["account"],
        cloud_id=record["cloud_id"] or None,
        started_at=started,
        outputs_to_execute=list(record["outputs_to_execute"]),
        watched=bool(record["watched"]),
        cancel_requested=bool(record["cancelled"]),
        charge=float(record["charge"]),
        accepted=bool(record["accepted"]),
        label=label_of(record["graph"], record["extra_data"]),
    )
    payload = Payload(
        codec.dump_bytes(record["graph"]),
        codec.dump_bytes(record["extra_data"]),
        None if targets is None else codec.dump_bytes(targets),
    )
    return job, payload


def _workflow_id(extra_data: Any) -> str | None:
    value = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _go_on_behind(connection: Connection, last: int) -> None:
    """The next job gets a key behind `last`."""
    if connection.dialect.name == "postgresql":
        statements = ["SELECT setval(pg_get_serial_sequence('jobs', 'key'), :last)"]
    else:
        statements = [
            "DELETE FROM sqlite_sequence WHERE name = 'jobs'",
            "INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', :last)",
        ]
    for statement in statements:
        connection.execute(text(statement), {"last": max(last, 1)})


def _shares(state: Mapping[str, Any]) -> Shares:
    starts, typical = state["starts"], state["typical"]
    members = {
        str(member): Share(starts.get(member), typical.get(member))
        for member in starts.keys() | typical.keys()
    }
    return Shares(float(state["now"]), members, dict(state.get("slots", {})))


# --- files ---------------------------------------------------------------------------------


def _files(connection: Connection, old: _Old) -> int:
    """Take over names, counters, and the names that outputs were given."""
    unit = FileUnit(connection)
    makers: dict[tuple[str, str, str], str] = {}

    def put_given(key: str, data: bytes) -> None:
        member, job, node = map(unquote, key.split("/"))
        for given in json.loads(data):
            makers[member, given["type"], given["path"]] = job
        unit.put_given(member, job, node, data)

    def put(_: str, data: bytes) -> None:
        record = {"account": "default", **json.loads(data)}
        path = posixpath.join(record.pop("subfolder"), record.pop("filename"))
        maker = makers.get((record["member"], record["type"], path))
        unit.put([FileRecord(path=path, job=maker, **record)])

    old.read("outputs", put_given)
    return len(old.read("files", put))


def _contents(connection: Connection, old: _Old) -> None:
    def read(_: str, data: bytes) -> tuple[AccountBlob, bool]:
        one = json.loads(data)
        name, hash_ = one["cloud_name"], one["hash"]
        sent, seen = one.get("sent_to"), one.get("seen_at")
        match = _HASH_NAME.fullmatch(name)
        is_opaque = sent is not None and match is not None and match["hash"].lower() != hash_
        account = sent or seen or ""
        return AccountBlob(account, name, sent is not None, hash_, one["size"], 0), is_opaque

    found = old.read("contents", read)
    opaque = any(is_opaque for _, is_opaque in found)
    FileUnit(connection).put_blobs([blob for blob, _ in found], names_are_opaque=opaque)


# --- usage ---------------------------------------------------------------------------------


def _usage(connection: Connection, old: _Old) -> None:
    """Take over what was counted, and count what a crash has kept from being counted."""

    def read(key: str, data: bytes) -> UsageRow:
        day, _, member = key.partition("/")
        return UsageRow(day, member, **json.loads(data))

    rows = old.read("usage", read)
    marks: dict[str, Mapping[str, Any]] = dict(
        old.read(_MARKS, lambda key, data: (key, {"create_time": 0, **json.loads(data)}))
    )
    live = {key: codec.loads(data) for key, data in old.scan("jobs")}
    for key, job in live.items():
        if job["accepted"] and marks.get(key, {"ended": True})["ended"]:
            rows.append(UsageRow(day_of(job["create_time"] / 1000), job["member"], submitted=1))
    ended = set()
    for key, data in old.scan("history"):
        ended.add(key)
        if key not in live and not (key in marks and marks[key]["ended"]):
            rows += _end_counted(_head(data), known=key in marks)
    for key, mark in marks.items():
        if key not in live and key not in ended and not mark["ended"]:
            day = day_of(mark["create_time"] / 1000)
            rows.append(UsageRow(day, key.partition("/")[0], submitted=-1, withdrawn=1))
    add_usage(connection, rows)


def _end_counted(head: Mapping[str, Any], *, known: bool) -> list[UsageRow]:
    summary, member = head["summary"], head["member"]
    began, end = summary["execution_start_time"], summary["execution_end_time"]
    row = UsageRow(
        day_of(end / 1000),
        member,
        running_seconds=max(0.0, (end - began) / 1000),
        outputs=int(summary.get("outputs_count", 0)),
    )
    setattr(row, head["outcome"], 1)
    submitted = UsageRow(day_of(summary["create_time"] / 1000), member, submitted=1)
    return [row] if known else [submitted, row]


# --- members -------------------------------------------------------------------------------


def _members(connection: Connection, old: _Old) -> int:
    def read(collection: str, make: Callable[[str, Any], T]) -> list[T]:
        return old.read(collection, lambda key, data: make(key, json.loads(data)))

    members = read(
        "members", lambda key, one: StoredMember(key, one["name"], False, codec.dump_bytes(one))
    )
    removed = read("removed", lambda key, name: StoredMember(key, str(name), True, b"{}"))
    uses = dict(read("uses", lambda key, use: (key, (int(use["at"]), str(use["address"])))))
    names = ("member", "digest", "note", "created", "expires")
    tokens = read(
        "tokens",
        lambda key, one: StoredToken(key, *(one[name] for name in names), *uses.get(key, ())),
    )
    put_members(connection, [*members, *removed], tokens)
    for session in read("sessions", lambda key, one: StoredSession(name=key, **one)):
        put_session(connection, session)
    return len(members)
