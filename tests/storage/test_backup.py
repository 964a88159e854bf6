"""Copies of a data folder: consistent while others write, whole when brought back, or refused."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import tarfile
from pathlib import Path

import pytest

from proxy.storage.backup import BackupError, backup, restore
from proxy.storage.database import FILE
from proxy.storage.jobs import JobRepository, Payload, StoredJob
from proxy.storage.start import open_folder

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
    found = [job.id for job in await JobRepository(database).live()]
    await database.close()
    return found


def contents(path: Path) -> set[str]:
    return {one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file()}


async def test_a_copy_has_what_cannot_be_fetched_again(folder: Path, tmp_path: Path) -> None:
    await fill(folder, "a")
    size = backup(folder, tmp_path / "copy.tar")
    assert size == (tmp_path / "copy.tar").stat().st_size
    assert (tmp_path / "copy.tar").stat().st_mode & 0o777 == 0o600
    assert restore(tmp_path / "copy.tar", tmp_path / "other") is None
    assert contents(tmp_path / "other") == {
        FILE,
        "userdata/anna/workflows/a.json",
        "audit/2026-01-01.jsonl",
        "credentials.key",
    }
    assert (tmp_path / "other" / "credentials.key").read_bytes() == b"secret"
    assert await jobs_in(tmp_path / "other") == ["a"]


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
        assert len(await JobRepository(opened).payloads(job.key for job in live)) == len(live)
        assert [job.id for job in live] == [str(one) for one in range(len(live))]
        await opened.close()


async def test_what_was_there_is_kept_when_a_copy_is_brought_back(
    folder: Path, tmp_path: Path
) -> None:
    await fill(folder, "a")
    backup(folder, tmp_path / "copy.tar")
    await fill(folder, "b")
    (folder / "userdata" / "new.json").write_bytes(b"new")
    replaced = restore(tmp_path / "copy.tar", folder)
    assert replaced == folder / "replaced-1"
    assert await jobs_in(folder) == ["a"]
    assert not (folder / "userdata" / "new.json").exists()
    assert (replaced / "userdata" / "new.json").exists()
    assert (folder / "files" / "content" / "ab" / "abcd").exists()
    assert await jobs_in(replaced) == ["a", "b"]
    assert restore(tmp_path / "copy.tar", folder) == folder / "replaced-2"


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


async def test_a_folder_of_0_1_0_is_copied_too(folder: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(folder / "proxy.sqlite")
    connection.execute("CREATE TABLE documents (collection, key, value)")
    connection.commit()
    connection.close()
    backup(folder, tmp_path / "copy.tar")
    restore(tmp_path / "copy.tar", tmp_path / "other")
    assert "proxy.sqlite" in contents(tmp_path / "other")


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
