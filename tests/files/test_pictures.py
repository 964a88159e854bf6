"""Pictures that are too large, and whose turn it is."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from files.helpers import header
from PIL import Image

from proxy.files.conversions import conversion, convert_picture
from proxy.files.pictures import (
    LARGE_PIXELS,
    MAX_PIXELS,
    PictureWorkers,
    TooManyPixelsError,
    pixels_of,
    size_of,
    unreadable,
)
from proxy.members.member import LOCAL


def test_a_picture_with_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(header(8192, 8193))
    wanted = conversion("webp;90", None)
    assert wanted is not None
    with pytest.raises(TooManyPixelsError) as refused:
        convert_picture(path, wanted)
    answer = unreadable("a.png", refused.value)
    assert (answer.kind, answer.type) == ("invalid", "image_too_large")
    assert answer.extra_info == {"max_pixels": MAX_PIXELS}


def test_the_largest_that_the_cloud_takes_is_none_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(header(8192, 8192))
    assert size_of(path) == (8192, 8192)
    assert pixels_of(path) == MAX_PIXELS


def test_the_tiles_of_a_small_tiff_are_not_too_large(tmp_path: Path) -> None:
    width, length, offset = 322, 323, 324
    tags = {
        256: 16,
        257: 16,
        258: 8,
        259: 1,
        262: 1,
        277: 1,
        width: 2**16,
        length: 2**16,
        offset: 8,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "a"
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))
    with pytest.raises(TooManyPixelsError):
        size_of(path)


def test_an_icon_counts_as_the_largest_that_it_may_hold(tmp_path: Path) -> None:
    path = tmp_path / "a"
    Image.new("RGB", (32, 32)).save(path, format="ICO")
    assert pixels_of(path) == MAX_PIXELS


class Work:
    """Work that ends when it is told to."""

    def __init__(self, workers: PictureWorkers, member: str, *sources: Path) -> None:
        self.begun = asyncio.Event()
        self.end = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(workers.run(member, self._run, *sources))

    def _run(self) -> None:
        self._loop.call_soon_threadsafe(self.begun.set)
        assert self.end.wait(30)


@pytest.fixture
async def workers() -> AsyncIterator[PictureWorkers]:
    shop = PictureWorkers()
    yield shop
    shop.close()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.png"
    path.write_bytes(header(1, LARGE_PIXELS + 1))
    return path


async def settled(*works: Work) -> list[bool]:
    """Which have begun, when nothing more can begin."""
    for _ in range(10):
        await asyncio.sleep(0)
    return [work.begun.is_set() for work in works]


async def test_a_member_has_one_picture_in_work(workers: PictureWorkers) -> None:
    first, second = Work(workers, "ann"), Work(workers, "ann")
    await first.begun.wait()
    other = Work(workers, "bob")
    await other.begun.wait()
    other.end.set()
    await other.task
    assert await settled(second) == [False]
    first.end.set()
    await second.begun.wait()
    second.end.set()
    await second.task


async def test_the_lone_member_may_have_all_threads(workers: PictureWorkers) -> None:
    works = [Work(workers, LOCAL), Work(workers, LOCAL)]
    for work in works:
        await work.begun.wait()
    for work in works:
        work.end.set()


async def test_of_large_pictures_one_is_in_work(workers: PictureWorkers, large: Path) -> None:
    first = Work(workers, "ann", large)
    await first.begun.wait()
    second, small = Work(workers, "bob", large), Work(workers, "carl")
    await small.begun.wait()
    small.end.set()
    await small.task
    assert await settled(second) == [False]
    first.end.set()
    await second.begun.wait()
    second.end.set()


async def test_who_leaves_keeps_the_place_until_the_work_is_done(workers: PictureWorkers) -> None:
    first = Work(workers, "ann")
    await first.begun.wait()
    first.task.cancel()
    second = Work(workers, "ann")
    assert await settled(second) == [False]
    first.end.set()
    await second.begun.wait()
    second.end.set()
