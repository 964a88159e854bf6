"""Files of the input directory as sources of contents."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from structlog.testing import capture_logs

from proxy.files import input_directory
from proxy.files.disk_folder import DiskFolder
from proxy.files.input_directory import InputDirectory, InputGoneError
from proxy.members.member import LOCAL
from proxy.storage.file_tables import FileRecord


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "input"
    path.mkdir()
    (path / "cat.png").write_bytes(b"a picture")
    return path


@pytest.fixture
def folder(root: Path) -> Iterator[DiskFolder]:
    folder = DiskFolder(root)
    yield folder
    folder.close()


@pytest.fixture
def inputs(folder: DiskFolder) -> InputDirectory:
    return InputDirectory(folder)


async def cat(inputs: InputDirectory) -> FileRecord:
    return (await inputs.find(LOCAL, ["cat.png", "dog.png"]))["cat.png"]


def change(path: Path) -> None:
    at = path.stat().st_mtime_ns + 1_000_000_000
    path.write_bytes(b"another one")
    os.utime(path, ns=(at, at))


async def test_a_content_is_read_from_any_offset(inputs: InputDirectory) -> None:
    record = await cat(inputs)
    assert record.size == 9
    assert await inputs.hash_of(record) == blake3(b"a picture").hexdigest()
    async with inputs.download(record.cloud_name, "input", 2) as download:
        data = b"".join([chunk async for chunk in download.chunks()])
    assert (data, download.size) == (b"picture", 9)


async def test_a_name_that_looks_like_a_hash_is_not_taken_for_one(
    inputs: InputDirectory, root: Path
) -> None:
    name = f"{'0' * 64}.png"
    (root / name).write_bytes(b"a picture")
    record = (await inputs.find(LOCAL, [name]))[name]
    assert await inputs.hash_of(record) == blake3(b"a picture").hexdigest()


async def test_a_file_is_hashed_once(inputs: InputDirectory, folder: DiskFolder) -> None:
    record = await cat(inputs)
    first = await inputs.hash_of(record)
    folder.close()  # nothing is read any more
    assert await inputs.hash_of(record) == first


async def test_a_file_that_changes_meanwhile_is_another_one(
    inputs: InputDirectory, root: Path
) -> None:
    before = await cat(inputs)
    change(root / "cat.png")
    assert await inputs.hash_of(before) is None
    with pytest.raises(InputGoneError):
        async with inputs.download(before.cloud_name, "input"):
            pass
    after = await cat(inputs)
    assert after.modified > before.modified
    assert await inputs.hash_of(after) == blake3(b"another one").hexdigest()


async def test_a_disk_that_does_not_answer_has_no_files(
    inputs: InputDirectory, folder: DiskFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        freed.wait()

    monkeypatch.setattr(input_directory, "TIMEOUT", 0.05)
    monkeypatch.setattr(folder, "status", hang)
    with capture_logs() as logs:
        assert await inputs.find(LOCAL, ["cat.png"]) == {}
    freed.set()
    assert [line["event"] for line in logs] == ["input_directory_failed"]


async def test_a_file_on_a_disk_that_no_longer_answers_cannot_be_read(
    inputs: InputDirectory, folder: DiskFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        freed.wait()

    record = await cat(inputs)
    try:
        async with inputs.download(record.cloud_name, "input") as download:
            monkeypatch.setattr(input_directory, "READ_TIMEOUT", 0.05)
            monkeypatch.setattr(input_directory, "read_at", hang)
            with pytest.raises(InputGoneError):
                await anext(aiter(download.chunks()))
        monkeypatch.setattr(folder, "open", hang)
        with pytest.raises(InputGoneError):
            async with inputs.download(record.cloud_name, "input"):
                pass
        with capture_logs() as logs:
            assert await inputs.hash_of(record) is None
    finally:
        freed.set()
    assert [(line["event"], line["reason"]) for line in logs] == [("input_read_failed", "timeout")]


async def test_a_file_that_is_opened_too_late_is_closed_again(
    inputs: InputDirectory, folder: DiskFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, open_file, close_file = await cat(inputs), folder.open, os.close
    freed, closed, opened = threading.Event(), threading.Event(), list[int]()

    def open_late(member: str, path: str) -> int:
        freed.wait()
        opened.append(open_file(member, path))
        return opened[0]

    def close(descriptor: int) -> None:
        close_file(descriptor)
        if descriptor in opened:
            closed.set()

    monkeypatch.setattr(input_directory, "READ_TIMEOUT", 0.05)
    monkeypatch.setattr(folder, "open", open_late)
    monkeypatch.setattr(os, "close", close)
    try:
        with pytest.raises(InputGoneError):
            async with inputs.download(record.cloud_name, "input"):
                pass
    finally:
        freed.set()
    assert await asyncio.to_thread(closed.wait, 60)


async def test_a_folder_is_listed_up_to_a_limit(
    inputs: InputDirectory, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_directory, "MAX_LISTED", 3)
    for number in range(10):
        (root / f"{number}.png").write_bytes(b"")
    assert 0 < len(await inputs.listing(LOCAL)) <= 4
