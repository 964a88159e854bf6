"""Copies of a data folder: complete, made while it is in use, restored, and in PostgreSQL."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from databases import _empty
from sqlalchemy import BigInteger, Boolean, Column, Connection, Double, LargeBinary, insert, select

from proxy.storage.backup import BackupError, backup, copy_folder, restore
from proxy.storage.database import Database, StorageError
from proxy.storage.encryption import SECRET_FILE, Cipher, stored_secrets
from proxy.storage.job_tables import StoredJob, history, jobs
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.payloads import Payload
from proxy.storage.postgresql import open_postgresql
from proxy.storage.sqlite import FILE, open_sqlite
from proxy.storage.start import migrate, open_folder
from proxy.storage.statements import get_meta, put_meta
from proxy.storage.tables import AnyText, leases, meta, metadata
from proxy.storage.usage import audit

PAYLOAD = Payload(b'{"a": 1}' * 1000, b"{}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    for name, data in (
        ("userdata/anna/workflows/a.json", b"{}"),
        ("audit/2026-01-01.jsonl", b"{}\n"),
        ("credentials.key", b"secret"),
        ("files/content/ab/abcd", b"picture"),
        ("catalog/object_info.json", b"{}"),
        ("lock", b""),
    ):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


async def fill(folder: Path, *ids: str) -> None:
    database = await open_folder(folder)
    jobs = JobRepository(database)
    for id_ in ids:
        await jobs.insert(StoredJob("anna", id_, "queued", 0, 1, 1), PAYLOAD)
    await database.close()


async def jobs_in(folder: Path) -> list[str]:
    database = await open_folder(folder)
    found = [job.prompt_id for job in await JobRepository(database).live()]
    await database.close()
    return found


def contents(path: Path) -> set[str]:
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


async def test_a_copy_has_what_cannot_be_fetched_again(folder: Path, tmp_path: Path) -> None:
    await fill(folder, "a")
    size = backup(folder, tmp_path / "copy.tar")
    assert size == (tmp_path / "copy.tar").stat().st_size
    assert (tmp_path / "copy.tar").stat().st_mode & 0o777 == 0o600
    assert restore(tmp_path / "copy.tar", tmp_path / "other") == (None, 1)
    assert contents(tmp_path / "other") == {
        FILE,
        "userdata/anna/workflows/a.json",
        "audit/2026-01-01.jsonl",
        "credentials.key",
    }
    assert (tmp_path / "other" / "credentials.key").read_bytes() == b"secret"
    assert await jobs_in(tmp_path / "other") == ["a"]


async def test_what_the_cloud_may_not_have_is_held_until_it_is_released(
    folder: Path, tmp_path: Path
) -> None:
    database = await open_folder(folder)
    for id_, state in (("a", "queued"), ("b", "submitting"), ("c", "running")):
        job = StoredJob("anna", id_, state, 0, 1, 1)
        order = (await JobRepository(database).insert(job, PAYLOAD)).order
    await database.close()
    backup(folder, tmp_path / "copy.tar")
    assert restore(tmp_path / "copy.tar", folder).held == 1
    database = await open_folder(folder)
    repository = JobRepository(database)
    assert await repository.held_order() == order
    assert (
        await repository.insert(StoredJob("anna", "d", "queued", 0, 1, 1), PAYLOAD)
    ).order > order
    assert (await repository.release_held(), await repository.release_held()) == (1, 0)
    assert await repository.held_order() == 0
    await database.close()


async def test_a_copy_may_be_gzipped(folder: Path, tmp_path: Path) -> None:
    await fill(folder, "a")
    assert backup(folder, tmp_path / "copy.tar.gz") < backup(folder, tmp_path / "copy.tar")
    restore(tmp_path / "copy.tar.gz", tmp_path / "other")
    assert await jobs_in(tmp_path / "other") == ["a"]


async def test_a_copy_in_the_data_folder_is_in_no_other_copy(folder: Path) -> None:
    await fill(folder, "a")
    size = backup(folder, folder / "backup.tar.gz")
    assert abs(backup(folder, folder / "backup-2.tgz") - size) < 100
    assert abs(backup(folder, folder / "backup.tar.gz") - size) < 100


async def test_a_folder_in_use_is_copied_at_one_moment(folder: Path, tmp_path: Path) -> None:
    """Each unit writes a pair; no copy has half of one."""
    database = await open_folder(folder)
    jobs, done = JobRepository(database), asyncio.Event()

    async def write() -> None:
        number = 0
        while not done.is_set():
            job = StoredJob("anna", str(number), "queued", 0, 1, 1)
            await jobs.insert(job, PAYLOAD)
            number += 1

    writing = asyncio.create_task(write())
    for number in range(5):
        await asyncio.to_thread(backup, folder, tmp_path / f"{number}.tar")
    done.set()
    await writing
    await database.close()
    for number in range(5):
        restore(tmp_path / f"{number}.tar", tmp_path / str(number))
        opened = await open_folder(tmp_path / str(number))
        live = await JobRepository(opened).live()
        assert len(await JobRepository(opened).payloads.get_many(job.order for job in live)) == len(
            live
        )
        assert [job.prompt_id for job in live] == [str(index) for index in range(len(live))]
        await opened.close()


async def test_what_was_there_is_kept_when_a_copy_is_brought_back(
    folder: Path, tmp_path: Path
) -> None:
    await fill(folder, "a")
    backup(folder, tmp_path / "copy.tar")
    await fill(folder, "b")
    (folder / "userdata" / "new.json").write_bytes(b"new")
    replaced, _ = restore(tmp_path / "copy.tar", folder)
    assert replaced == folder / "replaced-1"
    assert await jobs_in(folder) == ["a"]
    assert not (folder / "userdata" / "new.json").exists()
    assert (replaced / "userdata" / "new.json").exists()
    assert (folder / "files" / "content" / "ab" / "abcd").exists()
    assert await jobs_in(replaced) == ["a", "b"]
    assert restore(tmp_path / "copy.tar", folder).replaced == folder / "replaced-2"


async def test_a_damaged_database_is_replaced_by_its_copy(folder: Path, tmp_path: Path) -> None:
    await fill(folder, "a")
    backup(folder, tmp_path / "copy.tar")
    (folder / FILE).write_bytes(b"no database" * 1000)
    restore(tmp_path / "copy.tar", folder)
    assert await jobs_in(folder) == ["a"]


async def test_a_copy_that_is_no_copy_changes_nothing(folder: Path, tmp_path: Path) -> None:
    await fill(folder, "a")
    backup(folder, tmp_path / "copy.tar")
    whole = (tmp_path / "copy.tar").read_bytes()
    before = contents(folder)
    for name, data in (
        ("cut", whole[: len(whole) // 2]),
        ("text", b"hello"),
        ("tar", _tar({"x": b"1"})),
        ("damaged", _tar({"backup.json": _manifest(), FILE: b"no database" * 1000})),
        ("newer", _tar({"backup.json": _manifest(schema="9999")})),
        ("outside", _tar({"backup.json": _manifest(), "../out": b"1"})),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BackupError, match=f"{name} cannot be restored"):
            restore(tmp_path / name, folder)
        assert contents(folder) == before
    assert not (tmp_path / "out").exists()
    with pytest.raises(BackupError, match="cannot be restored"):
        restore(tmp_path / "missing", folder)
    assert await jobs_in(folder) == ["a"]


def test_a_folder_without_a_database_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="--data-dir"):
        backup(tmp_path / "typo", tmp_path / "copy.tar")
    assert not (tmp_path / "typo").exists()
    assert not (tmp_path / "copy.tar").exists()


async def test_a_copy_that_fails_leaves_the_older_one(folder: Path, tmp_path: Path) -> None:
    await fill(folder, "a")
    target = tmp_path / "copy.tar"
    backup(folder, target)
    before = target.read_bytes()
    (folder / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(BackupError, match="cannot be written"):
        backup(folder, target)
    assert target.read_bytes() == before
    assert not (tmp_path / ".copy.tar.partial").exists()


def _manifest(schema: str = "0001") -> bytes:
    return json.dumps({"format": 1, "version": "x", "schema": schema}).encode()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


#: More than are copied at once.
ROWS = 120

TABLES = [table for table in metadata.sorted_tables if table not in (leases, meta)]


@pytest.fixture
async def target(postgresql: str) -> AsyncIterator[Database]:
    """A new PostgreSQL database."""
    database = await open_postgresql(postgresql)
    await database.write(_empty)
    await migrate(database)
    yield database
    await database.close()


@pytest.fixture
async def grown(tmp_path: Path) -> Path:
    """A data folder whose tables all have rows, and whose job with the highest key is gone."""
    database = await open_sqlite(tmp_path / FILE)
    await migrate(database)

    def fill(connection: Connection) -> None:
        for table in TABLES:
            rows = [
                {column.name: value_of(column, number) for column in table.columns}
                for number in range(1, ROWS + 1)
            ]
            connection.execute(insert(table), rows)
        connection.execute(jobs.delete().where(jobs.c.order > 100))
        connection.execute(history.delete().where(history.c.order > 100))
        put_meta(connection, "members_revision", 7)

    await database.write(fill)
    await database.close()
    return tmp_path


def value_of(column: Column[Any], number: int) -> Any:
    match column.type:
        case Boolean():
            return number % 2 == 0
        case LargeBinary():
            return b"\0\xff" * 1000 + str(number).encode()
        case Double():
            return number / 3
        case AnyText():
            return f"\0 \ud800 \x1a ä {number}"
        case BigInteger():
            return number if column.primary_key else 2**60 + number
    if column.primary_key and column.autoincrement is True:
        return number
    return f"{number:04}"


def everything(connection: Connection) -> dict[str, list[Any]]:
    return {
        table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
        for table in TABLES
    }


async def test_every_row_of_every_table_is_copied(grown: Path, target: Database) -> None:
    source = await open_sqlite(grown / FILE)
    before = await source.read(everything)
    await source.close()
    copied = await copy_folder(grown, target)
    assert await target.read(everything) == before
    assert copied == {name: len(rows) for name, rows in before.items()}
    assert await target.read(lambda c: get_meta(c, "members_revision")) == 7


async def test_new_keys_are_higher_than_all_before(grown: Path, target: Database) -> None:
    await copy_folder(grown, target)

    def add(connection: Connection) -> list[int]:
        keys = []
        for key in (jobs.c.order, audit.c.key):
            row = {column.name: value_of(column, 999) for column in key.table.columns}
            del row[key.name]
            statement = insert(key.table).values(row).returning(key)
            keys.append(connection.execute(statement).scalar_one())
        return keys

    assert await target.write(add) == [ROWS + 1, ROWS + 1]


async def test_an_empty_folder_is_copied(tmp_path: Path, target: Database) -> None:
    source = await open_sqlite(tmp_path / FILE)
    await migrate(source)
    await source.close()
    assert set((await copy_folder(tmp_path, target)).values()) == {0}


async def test_what_the_folder_encrypted_is_read_with_the_database(
    grown: Path, target: Database
) -> None:
    encrypted = Cipher(grown / SECRET_FILE).encrypt(b"a key")
    of_its_own = Cipher(secret=await stored_secrets(target)).encrypt(b"another")
    await copy_folder(grown, target)
    cipher = Cipher(secret=await stored_secrets(target))
    assert cipher.decrypt(encrypted) == b"a key"
    assert cipher.decrypt(of_its_own) == b"another"


async def test_a_database_with_records_is_refused(grown: Path, target: Database) -> None:
    await copy_folder(grown, target)
    before = await target.read(everything)
    with pytest.raises(StorageError, match="not empty"):
        await copy_folder(grown, target)
    assert await target.read(everything) == before


async def test_a_database_that_replicas_use_is_refused(grown: Path, target: Database) -> None:
    lease = await LeaseRepository(target).acquire(ENGINE, "a replica", 60)
    assert lease is not None
    with pytest.raises(StorageError, match="stop all processes"):
        await copy_folder(grown, target)
    await LeaseRepository(target).release(lease)
    assert (await copy_folder(grown, target))["jobs"] == 100


async def test_nothing_is_copied_where_a_row_is_refused(grown: Path, target: Database) -> None:
    source = await open_sqlite(grown / FILE)
    twice = "UPDATE usage SET submitted = 'many' WHERE day = '0120'"
    await source.write(lambda c: c.exec_driver_sql(twice).close())
    await source.close()
    with pytest.raises(StorageError):
        await copy_folder(grown, target)
    assert not any((await target.read(everything)).values())
