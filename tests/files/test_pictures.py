"""The processes for pictures: their limits, and whose turn it is."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from files import hostile_tasks
from files.helpers import header, png
from waiting import until

from proxy.files import picture_worker
from proxy.files.conversions import conversion
from proxy.files.opened_pictures import MAX_PIXELS, NotAPictureError, TooManyPixelsError
from proxy.files.picture_tasks import size
from proxy.files.pictures import PictureHeader, PictureWorkers, unreadable
from proxy.members.member import LOCAL
from proxy.runtime import processes
from proxy.runtime.processes import Processes
from proxy.translate.errors import LocalError

WEBP = conversion("webp;90", None)
assert WEBP is not None
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of processes")


@pytest.fixture
async def workers() -> AsyncIterator[PictureWorkers]:
    shop = PictureWorkers()
    yield shop
    await shop.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(png((8, 6)))
    return path


async def about(workers: PictureWorkers) -> dict[str, Any]:
    return dict(await workers.run("ann", hostile_tasks.environment, []))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_sentence_for_a_picture_with_too_many_pixels() -> None:
    answer = unreadable("a.png", TooManyPixelsError())
    assert (answer.kind, answer.type) == ("invalid", "image_too_large")
    assert answer.extra_info == {"max_pixels": MAX_PIXELS}


async def test_headers(workers: PictureWorkers, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data, expected in (
        (header(8192, 8192), PictureHeader(8192, 8192)),
        (header(8192, 8193), PictureHeader(None, None)),
        (b"something else", None),
    ):
        path.write_bytes(data)
        assert await workers.header("ann", path) == expected


async def test_what_has_too_many_pixels_is_not_decoded(
    workers: PictureWorkers, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(header(8192, 8193))
    with pytest.raises(TooManyPixelsError, match="more than 67108864 pixels"):
        await workers.convert("ann", tmp_path / "a", tmp_path / "b", WEBP)


async def test_a_process_does_one_task_after_another_and_knows_no_secrets(
    workers: PictureWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "secret")
    first, second = await about(workers), await about(workers)
    assert first["pid"] == second["pid"] != os.getpid()
    assert {name for name in first["names"] if "COMFY" in name} == set()
    assert {
        name for name in first["modules"] if name.startswith(("aiohttp", "proxy.translate"))
    } == set()


async def test_a_process_without_a_task_ends(
    workers: PictureWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "IDLE_SECONDS", 0.0)
    first = await about(workers)
    await until(lambda: not is_running(first["pid"]))
    assert (await about(workers))["pid"] != first["pid"]


async def test_who_leaves_ends_the_work(workers: PictureWorkers) -> None:
    pid = (await about(workers))["pid"]
    task = asyncio.create_task(workers.run("ann", hostile_tasks.spin, [], pixels=MAX_PIXELS))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_running(pid)
    assert (await about(workers))["pid"] != pid


@posix
@pytest.mark.parametrize(
    ("task", "options"),
    [
        (hostile_tasks.spin, {"pixels": 1_000_000}),
        (hostile_tasks.fill, {"size": picture_worker.MAX_BYTES}),
        (hostile_tasks.write, {"size": picture_worker.MAX_BYTES + (1 << 20)}),
        (hostile_tasks.end, {"status": 0}),
        (hostile_tasks.end, {"status": 1}),
    ],
    ids=["time", "memory", "file", "end", "failure"],
)
async def test_a_process_that_passes_a_limit_is_followed_by_another(
    workers: PictureWorkers,
    tmp_path: Path,
    task: picture_worker.Task,
    options: Mapping[str, Any],
) -> None:
    pid = (await about(workers))["pid"]
    with pytest.raises(TooManyPixelsError, match="more than 999999 pixels"):
        await workers.run("ann", task, [], [tmp_path / "a"], **options)
    assert not is_running(pid)
    assert (await about(workers))["pid"] != pid


@posix
async def test_a_usual_picture_waits_for_none_that_takes_long(workers: PictureWorkers) -> None:
    long = [
        asyncio.create_task(workers.run(member, hostile_tasks.spin, [], pixels=pixels))
        for member, pixels in (("bob", MAX_PIXELS), ("dan", MAX_PIXELS), ("eve", 1))
    ]
    assert await about(workers)
    assert not any(task.done() for task in long)
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)


@posix
async def test_a_header_has_less_time(workers: PictureWorkers) -> None:
    with pytest.raises(TooManyPixelsError, match=f"more than {MAX_PIXELS} pixels"):
        await workers.run("ann", hostile_tasks.spin, [], pixels=0)


async def test_a_process_that_the_system_does_not_limit_is_killed(
    workers: PictureWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    await about(workers)
    monkeypatch.setattr(processes, "_START_SECONDS", 0.0)
    monkeypatch.setattr(processes, "_CLOCK_FACTOR", 0.05)
    with pytest.raises(TooManyPixelsError):
        await workers.run("ann", hostile_tasks.spin, [], pixels=0)


@posix
async def test_a_process_reaches_its_files_and_nothing_else(
    workers: PictureWorkers, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "other").write_text("other")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with server:
        found = await workers.run(
            "ann",
            hostile_tasks.reach,
            [tmp_path / "mine"],
            path=str(tmp_path / "other"),
            port=server.sockets[0].getsockname()[1],
        )
    assert found == [os.strerror(errno.EMFILE)] * 3 + ["mine"]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "line", ["no JSON", "1", '{"seconds": "x"}', "x" * 200_000, '{"result": 1', "\xff", "null"]
)
async def test_an_answer_that_is_none_is_a_failure(workers: PictureWorkers, line: str) -> None:
    with pytest.raises((TooManyPixelsError, RuntimeError)):
        await workers.run("ann", hostile_tasks.say, [], line=line)
    assert await about(workers)


async def test_a_defect_of_the_server_is_none_of_the_picture(workers: PictureWorkers) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'mine'"):
        await workers.run("ann", hostile_tasks.fail, [])


async def test_no_process_can_be_started(
    workers: PictureWorkers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(LocalError) as refused:
        await workers.header("ann", tmp_path)
    assert (refused.value.type, refused.value.kind) == ("pictures_unavailable", "unavailable")


class Gate:
    """Tasks that begin and end when they are told to, in the place of processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self._changed = asyncio.Event()
        self._ends: dict[str, asyncio.Event] = {}
        monkeypatch.setattr(Processes, "run", lambda _, task, __: self._run(task["sources"][0]))

    async def _run(self, name: str) -> Any:
        self.begun.append(name)
        self._changed.set()
        await self._ends.setdefault(name, asyncio.Event()).wait()
        return {"result": [1, 1]}

    async def until_begun(self, *names: str) -> None:
        while not set(names) <= set(self.begun):
            await self._changed.wait()
            self._changed.clear()

    def end(self, name: str) -> None:
        self._ends.setdefault(name, asyncio.Event()).set()


@pytest.fixture
async def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


async def test_a_member_has_one_picture_in_work(workers: PictureWorkers, gate: Gate) -> None:
    works = [
        asyncio.create_task(workers.run(member, size, [Path(name)]))
        for member, name in (("ann", "1"), ("ann", "2"), ("bob", "3"), ("carl", "4"))
    ]
    await gate.until_begun("1", "3")
    gate.end("3")
    await gate.until_begun("4")
    assert gate.begun == ["1", "3", "4"]
    gate.end("1")
    await gate.until_begun("2")
    for name in ("2", "4"):
        gate.end(name)
    await asyncio.gather(*works)


async def test_the_lone_member_may_have_all_processes(workers: PictureWorkers, gate: Gate) -> None:
    works = [asyncio.create_task(workers.run(LOCAL, size, [Path(name)])) for name in "12"]
    await gate.until_begun("1", "2")
    for name in "12":
        gate.end(name)
    await asyncio.gather(*works)


async def test_headers_wait_for_no_conversion(workers: PictureWorkers, gate: Gate) -> None:
    works = [
        asyncio.create_task(workers.run(member, size, [Path(member)])) for member in ("ann", "bob")
    ]
    await gate.until_begun("ann", "bob")
    gate.end("3")
    assert await workers.header("ann", Path("3")) == PictureHeader(1, 1)
    for name in ("ann", "bob"):
        gate.end(name)
    await asyncio.gather(*works)


async def test_a_file_that_is_no_picture_is_refused(
    workers: PictureWorkers, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"no picture")
    with pytest.raises(NotAPictureError, match="not a picture in a known format") as refused:
        await workers.convert("ann", tmp_path / "a", tmp_path / "b", WEBP)
    assert refused.value.kind == "UnidentifiedImageError"


async def test_each_format_is_decoded_without_another_file(
    workers: PictureWorkers, tmp_path: Path
) -> None:
    from PIL import Image

    for format_ in (
        "PNG",
        "JPEG",
        "WEBP",
        "GIF",
        "BMP",
        "TIFF",
        "AVIF",
        "JPEG2000",
        "PPM",
        "TGA",
        "ICO",
        "DDS",
        "QOI",
    ):
        path = tmp_path / format_
        Image.new("RGB", (16, 16)).save(path, format=format_)
        for wanted in (WEBP, conversion("jpeg", None), conversion(None, "a")):
            assert wanted is not None
            await workers.convert("ann", path, tmp_path / "b", wanted)
