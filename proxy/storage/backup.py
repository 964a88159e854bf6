"""Copies of a data folder: in one file, made while the server runs and restored, and, for a folder
that grows into a team, of its database in PostgreSQL.

A copy in a file is a tar file with a consistent copy of the database and everything else that
cannot be fetched again. What the cloud has (the cache of contents, the catalog) is left out.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple

from sqlalchemy import Connection, create_engine, func, insert, inspect, select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from proxy import __version__
from proxy.runtime import clock
from proxy.storage.database import Database, StorageError
from proxy.storage.encryption import SECRET_FILE, adopt_secrets
from proxy.storage.held import hold_waiting
from proxy.storage.job_tables import history, jobs
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.sqlite import FILE, free_path
from proxy.storage.start import knows
from proxy.storage.statements import Upsert
from proxy.storage.tables import leases, meta, metadata
from proxy.storage.usage import audit

#: What tells a copy from another tar file: version, schema and time of its making.
_MANIFEST = "backup.json"
_FORMAT = 1

#: Folders and files that are not copied: what can be fetched again, and the lock.
_LEFT_OUT = frozenset({"files", "catalog", "lock", _MANIFEST})
_COPIES = (".tar", ".tar.gz", ".tgz")
_SUFFIXES = ("-wal", "-shm", "-journal")

#: Rows that are read and written at once; one may have some MB.
_ROWS = 50
#: What each database says of itself.
_OWN = ("oldest_schema", "secrets", "readiness")
_TABLES = [table for table in metadata.sorted_tables if table not in (leases, meta)]
_PUT_META = Upsert(meta)


class BackupError(StorageError):
    """Raised when a copy cannot be made or restored; the data folder is unchanged."""


def backup(folder: Path, target: Path) -> int:
    """Copy the data folder, which may be in use, to the file `target`; its size in bytes.

    The copy is gzipped where the name ends with `.gz` or `.tgz`. It holds prompts, digests of
    tokens and the secret for credentials, and is readable by its owner alone. A file that is there
    is replaced when the copy is whole. Raises `BackupError`.
    """
    if not (folder / FILE).exists():
        raise BackupError(
            f"there is no database in {folder}: set --data-dir to the folder of the proxy"
        )
    partial = target.with_name(f".{target.name}.partial")
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".backup-") as scratch:
            schema = _copy_database(folder / FILE, Path(scratch, FILE))
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            mode: Literal["w", "w:gz"] = "w:gz" if target.suffix in (".gz", ".tgz") else "w"
            with open(handle, "wb") as file, tarfile.open(fileobj=file, mode=mode) as archive:  # noqa: PTH123 (a handle)
                _add_manifest(archive, schema)
                for name in sorted(os.listdir(scratch)):  # noqa: PTH208 (names)
                    archive.add(Path(scratch, name), name)
                for path in sorted(_others(folder, target)):
                    with contextlib.suppress(FileNotFoundError):  # removed since
                        archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
                archive.close()
                file.flush()
                os.fsync(file.fileno())
        partial.replace(target)
        return target.stat().st_size
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        raise BackupError(f"the backup {target} cannot be written: {_remedy(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def _remedy(error: Exception) -> str:
    """Return what went wrong and what to do, without numbers of the system."""
    match error:
        case FileNotFoundError():
            return "there is no such file or folder: correct the path"
        case IsADirectoryError():
            return "it is a folder: name a file"
        case NotADirectoryError():
            return "a part of its path is a file: correct the path"
        case PermissionError():
            return "this user may not use it: correct its permissions, or name another file"
        case OSError(errno=errno.ENOSPC):
            return "the disk is full: free space, or name a file on another disk"
        case OSError(strerror=str() as reason):
            return reason
        case tarfile.TarError() | zlib.error() | EOFError():
            return "it is damaged, or no file from comfy-cloud-proxy backup: name another file"
        case _:
            return str(error)


class Restored(NamedTuple):
    """What a restored copy has `replaced`, if anything, in which folder, and how many of its jobs
    are `held`."""

    replaced: Path | None
    held: int


def restore(source: Path, folder: Path) -> Restored:
    """Bring a copy back into the data folder, which nobody may use meanwhile.

    What was there goes to a folder `replaced-N` in it, so that nothing is lost. Jobs that waited
    may have run since the copy was made: they are held. Raises `BackupError`, and then the data
    folder is as it was.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".restore-") as scratch:
            _extract(source, Path(scratch))
            _check_copy(source, Path(scratch))
            held = _hold(Path(scratch, FILE))
            return Restored(_exchange(Path(scratch), folder), held)
    except (
        OSError,
        sqlite3.Error,
        SQLAlchemyError,
        tarfile.TarError,
        zlib.error,
        ValueError,
        EOFError,
    ) as error:
        raise BackupError(f"the backup {source} cannot be restored: {_remedy(error)}") from error


def _copy_database(path: Path, target: Path) -> str | None:
    """Copy the database as it is at one moment; return its schema."""
    with (
        contextlib.closing(sqlite3.connect(path)) as source,
        contextlib.closing(sqlite3.connect(target)) as copy,
    ):
        source.execute("PRAGMA busy_timeout = 5000")
        source.backup(copy)  # in one step: others write on, and it does not begin again
        copy.execute("PRAGMA journal_mode = DELETE")  # the copy is one file
        schema = _schema(copy)
    target.chmod(0o600)
    return schema


def _schema(connection: sqlite3.Connection) -> str | None:
    found = connection.execute("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
    if found.fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _add_manifest(archive: tarfile.TarFile, schema: str | None) -> None:
    made = datetime.fromtimestamp(clock.time(), UTC).isoformat(timespec="seconds")
    about = {"format": _FORMAT, "version": __version__, "schema": schema, "made": made}
    data = json.dumps(about).encode()
    entry = tarfile.TarInfo(_MANIFEST)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(clock.time())
    archive.addfile(entry, io.BytesIO(data))


def _others(folder: Path, target: Path) -> Iterator[Path]:
    """Yield the files and folders to copy beside the databases, without `target`."""
    for path in folder.iterdir():
        if target.exists() and path.samefile(target):
            continue
        if path.name in _LEFT_OUT or path.name.startswith((".", "replaced-")):
            continue
        if path.name.startswith(FILE):
            continue  # copied already; a log, or a damaged one that was set aside
        if path.name.endswith(_COPIES):
            continue  # no copy holds the copies before it
        if path.is_file():
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield path
            yield from (entry for entry in path.rglob("*") if entry.is_file() or entry.is_dir())


def _extract(source: Path, scratch: Path) -> None:
    with tarfile.open(source) as archive:
        for entry in archive:
            if entry.isfile() or entry.isdir():
                archive.extract(entry, scratch, filter="data", set_attrs=entry.isfile())
            else:
                raise ValueError(f"{entry.name} is not a file")


def _check_copy(source: Path, scratch: Path) -> None:
    """Refuse what is no copy, or one that this program cannot read. Raises `ValueError`."""
    manifest = scratch / _MANIFEST
    if not manifest.is_file():
        raise ValueError("it was not made by `comfy-cloud-proxy backup`")
    about = json.loads(manifest.read_bytes())
    schema = about.get("schema")
    if about.get("format") != _FORMAT or (schema is not None and not knows(schema)):
        version = about.get("version")
        raise ValueError(f"it was made by version {version}: restore it with that version")
    manifest.unlink()
    if not (scratch / FILE).is_file():
        raise ValueError(f"it has no {FILE}")
    with contextlib.closing(sqlite3.connect(scratch / FILE)) as connection:
        ((verdict,),) = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if verdict != "ok":
        raise ValueError(f"its {FILE} is damaged ({verdict})")


def _hold(path: Path) -> int:
    """Hold the waiting jobs of a database; return how many there are."""
    engine = create_engine(URL.create("sqlite", database=str(path)))
    try:
        with engine.begin() as connection:
            if not inspect(connection).has_table(jobs.name):
                return 0
            return hold_waiting(connection)
    finally:
        engine.dispose()


def _exchange(scratch: Path, folder: Path) -> Path | None:
    """Put the files of the copy instead of those that are there."""
    names = {path.name for path in folder.iterdir()} - {scratch.name, "lock"}
    old = {name for name in names if not name.startswith("replaced-") and name not in _LEFT_OUT}
    replaced = free_path(folder / "replaced")
    if old:
        replaced.mkdir(mode=0o700)
    for name in sorted(old, key=lambda name: (name.endswith(_SUFFIXES), name)):  # logs last
        shutil.move(folder / name, replaced)
    for path in sorted(scratch.iterdir()):
        shutil.move(path, folder)
    return replaced if old else None


# --- into PostgreSQL ----------------------------------------------------------------------


async def copy_folder(folder: Path, target: Database) -> dict[str, int]:
    """Copy the records of a data folder into a PostgreSQL database; the rows of each table.

    Both have the schema of this version, and nobody uses them. The folder stays as it is; the
    secret that its credentials are encrypted with is copied, too. Raises `StorageError`; then
    nothing is copied.
    """
    if await LeaseRepository(target).holder(ENGINE) is not None:
        raise StorageError("a running proxy uses the database: stop all processes first")
    secret = folder / SECRET_FILE
    secrets = secret.read_text().split() if secret.exists() else []
    engine = create_engine(URL.create("sqlite", database=str(folder / FILE)))

    def work(connection: Connection) -> dict[str, int] | str:
        if (filled := _filled(connection)) is not None:
            return filled
        with engine.connect() as source:
            adopt_secrets(connection, secrets)
            return _copy_rows(source, connection)

    try:
        copied = await target.write(work, long=True)
    finally:
        engine.dispose()
    if isinstance(copied, str):
        raise StorageError(
            f"the database is not empty (its table {copied} has rows): use a new one"
        )
    return copied


def _filled(connection: Connection) -> str | None:
    """Return the name of a table that has rows, if there is one."""
    for table in _TABLES:
        if connection.execute(select(table).limit(1)).first() is not None:
            return table.name
    return None


def _copy_rows(source: Connection, target: Connection) -> dict[str, int]:
    copied = {}
    for table in _TABLES:
        copied[table.name] = 0
        rows = source.execution_options(yield_per=_ROWS).execute(select(table))
        for some in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in some])
            copied[table.name] += len(some)
    for row in source.execute(select(meta).where(meta.c.name.not_in(_OWN))).mappings():
        target.execute(_PUT_META(target), dict(row))
    _continue_keys(source, target)
    return copied


def _continue_keys(source: Connection, target: Connection) -> None:
    """Make new keys higher than all before, also than those of deleted rows."""
    ever = "SELECT seq FROM sqlite_sequence WHERE name = 'jobs'"
    used = source.execute(text(ever)).scalar() or 0
    for key, others in ((jobs.c.order, (history.c.order,)), (audit.c.key, ())):
        highest = max(
            target.execute(select(func.coalesce(func.max(column), 0))).scalar_one()
            for column in (key, *others)
        )
        if key is jobs.c.order:
            highest = max(highest, used)
        if highest:
            sequence = func.pg_get_serial_sequence(key.table.name, key.name)
            target.execute(select(func.setval(sequence, highest)))
