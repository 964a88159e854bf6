"""How many of our files a request and an event pass through, and how many functions a job.

Counted with `sys.setprofile` over the running server, everything below `proxy/` but the simulator.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import aiohttp
import graphs
import pytest
from stack import Client, running_proxy
from waiting import until

from proxy.cloud.event_socket import EventSocket
from proxy.engine.follower import JobFollower
from proxy.engine.tracker import Ended, EventReceived, Input
from proxy.files.cache import Cache
from proxy.members import directory
from proxy.simulator import Simulator

#: With other servers a message of the bus passes through the files of their clients, too.
pytestmark = pytest.mark.sqlite

PACKAGE = str(Path(__file__).parents[1] / "proxy")
SIMULATOR = str(Path(__file__).parents[1] / "proxy" / "simulator")

#: The most files that each way may have.
EVENT, QUEUE, VIEW = 15, 14, 19

#: The most functions on the whole way of a small job, and the most lines of all of them: usually
#: 457 to 463 and 4,270 to 4,300, the more where events of each of the jobs come before its answer,
#: and a few more on a busy machine.
FUNCTIONS, LINES = 460, 4150


@contextmanager
def traced() -> Iterator[set[str]]:
    """The files whose functions are called in this thread for as long as the block runs."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            name = frame.f_code.co_filename
            if name.startswith(PACKAGE) and not name.startswith(SIMULATOR):
                files.add(name.removeprefix(PACKAGE + "/"))

    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)


@contextmanager
def functions_called() -> Iterator[set[CodeType]]:
    """The functions that are called in this thread for as long as the block runs, with lambdas,
    generator expressions and, where Python calls them as functions (before 3.12), comprehensions.
    """
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        name = code.co_filename
        if event == "call" and name.startswith(PACKAGE) and not name.startswith(SIMULATOR):
            called.add(code)

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


def length(code: CodeType) -> int:
    """The lines of a function."""
    return len(inspect.getsourcelines(code)[0])


async def assert_few(call: Callable[[], Awaitable[object]], limit: int) -> None:
    """The call passes through at most so many files; a few tries, for in some there is background
    work beside it."""
    for _ in range(10):
        with traced() as files:
            await call()
        if 0 < len(files) <= limit:
            return
    pytest.fail("\n".join(sorted(files)))


@pytest.fixture(autouse=True)
def _no_look_for_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at a few times a second is on nobody's way."""
    monkeypatch.setattr(directory, "INTERVAL", 3600.0)


async def test_the_life_of_a_job(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """From the submission over the events to the end: each function counts once, with its lines.

    What runs beside a job now and then (pings, samples, reads of key files) is beside some of ten
    jobs only; what is on the way of a job is on the way of each. Its output is downloaded ahead:
    until it is in the cache, which may be before or after the end of the job.
    """
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        await follow_ten_jobs(Client(session, proxy.url), proxy.services.files.cache)


async def follow_ten_jobs(client: Client, cache: Cache) -> None:
    """Compare what each of ten jobs passes through with the bounds."""
    await client.run(graphs.plain(0))
    await until(lambda: cache.total)
    ways = []
    async with client.listening() as listener:
        for color in range(1, 11):
            before = cache.total
            with functions_called() as called:
                await listener.until_end(await client.submit(graphs.plain(color)))
                await until(lambda before=before: cache.total > before)
            ways.append(called)
    way = set.intersection(*ways)
    names = "\n".join(sorted(f"{code.co_filename} {code.co_qualname}" for code in way))
    assert 0 < len(way) <= FUNCTIONS, f"{len(way)} functions\n{names}"
    # The lines of a lambda or a comprehension are those of its function.
    lines = sum(length(code) for code in way if not code.co_name.startswith("<"))
    assert lines <= LINES, f"{lines} lines\n{names}"


async def test_an_event(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cloud's socket to its follower, and from there to the client's socket."""
    receive, follow = EventSocket._text, JobFollower._take
    received: set[str] = set()
    followed: set[str] = set()

    def receive_traced(socket: EventSocket, text: str) -> None:
        if '"progress"' not in text or received:
            receive(socket, text)
            return
        with traced() as files:
            receive(socket, text)
        received.update(files)

    async def follow_traced(follower: JobFollower, happening: Input) -> Ended | None:
        is_progress = isinstance(happening, EventReceived) and happening.type == "progress"
        if not is_progress or followed:
            return await follow(follower, happening)
        with traced() as files:
            ended = await follow(follower, happening)
        followed.update(files)
        return ended

    monkeypatch.setattr(EventSocket, "_text", receive_traced)
    monkeypatch.setattr(JobFollower, "_take", follow_traced)
    await client.run(graphs.sampled(1))
    assert received
    assert followed
    found = received | followed
    assert len(found) <= EVENT, found
    documented = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in found if name not in documented] == []


async def test_the_queue(client: Client) -> None:
    await client.get("queue")
    await assert_few(lambda: client.get("queue"), QUEUE)


async def test_a_view_of_what_is_cached(client: Client) -> None:
    entry = await client.run(graphs.plain(1))
    (item,) = entry["outputs"]["2"]["images"]
    await client.view(item)
    await assert_few(lambda: client.view(item), VIEW)
