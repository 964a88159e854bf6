"""User data on the disk."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.storage.database import StorageError
from proxy.userdata.base import DRAFT
from proxy.userdata.disk import BLOCK, Disk, TakenError, UserDataOnDisk


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_write_that_fails_leaves_what_was_there(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.write("a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space"):
        disk.write("a", b"new")
    assert disk.read("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_of_many_that_want_a_free_name_one_gets_it(disk: Disk) -> None:
    def write(number: int) -> int:
        try:
            disk.write("a", str(number).encode(), overwrite=False)
        except TakenError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(32))) == 1


def test_readers_see_one_version_or_the_other(disk: Disk) -> None:
    versions = [bytes([letter]) * 100_000 for letter in b"ab"]
    disk.write("x", versions[0])
    with ThreadPoolExecutor(2) as pool:
        writing = pool.submit(lambda: [disk.write("x", version) for version in versions * 5])
        while not writing.done():
            assert disk.read("x") in versions


async def test_what_a_killed_process_had_begun_is_removed(tmp_path: Path) -> None:
    data = UserDataOnDisk(tmp_path)
    await data.write("local", "workflows/a", b"x")
    (tmp_path / "local/workflows" / f"{DRAFT}1").write_bytes(b"half")
    assert [entry.path for entry in await data.tree("local", "")] == ["workflows", "workflows/a"]
    await data.start()
    assert [path.name for path in (tmp_path / "local/workflows").iterdir()] == ["a"]


async def test_members_do_not_see_each_other(tmp_path: Path) -> None:
    data = UserDataOnDisk(tmp_path)
    await data.write("ann", "a", b"x")
    assert await data.tree("bob", "") == []
    with pytest.raises(FileNotFoundError):
        await data.read("bob", "a")


async def test_a_client_that_leaves_does_not_undo_a_change(tmp_path: Path) -> None:
    data = UserDataOnDisk(tmp_path)
    leaving = asyncio.create_task(data.change_settings("local", {"a": 1}))
    await asyncio.sleep(0)
    leaving.cancel()
    await data.change_settings("local", {"b": 2})
    settings = await data.settings("local")
    assert settings["b"] == 2


def test_what_is_stored_is_counted_along(disk: Disk, tmp_path: Path) -> None:
    disk.write("workflows/a", b"x" * 3 * BLOCK)
    assert disk.usage("workflows/a") == (4 * BLOCK, 3 * BLOCK)
    assert disk.usage("b/c/new") == (4 * BLOCK, -2 * BLOCK)
    disk.write("workflows/a", b"x")
    disk.write("b/c/new", b"x" * (BLOCK + 1))
    disk.write("b/c/old", b"")
    disk.move("b/c/new", "d/old")
    disk.move("d/old", "b/c/old")
    disk.write("e", b"x")
    disk.delete("e")
    stored, _ = disk.usage("e")
    assert stored == Disk(tmp_path).usage("e")[0] == (4 + 1) * BLOCK + BLOCK + 1
