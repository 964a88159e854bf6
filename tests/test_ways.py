"""How many of our files a request, an event and a job pass through.

Counted with `sys.setprofile` over the running server, everything below `proxy/` but the simulator.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import graphs
import pytest
from stack import Client

from proxy.cloud.event_socket import EventSocket

PACKAGE = str(Path(__file__).parents[1] / "proxy")
SIMULATOR = str(Path(__file__).parents[1] / "proxy" / "simulator")

#: The most files that each way may have; they are to become fewer.
JOB, EVENT, QUEUE, VIEW = 41, 8, 11, 14


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


async def fewest(call: Callable[[], Awaitable[object]]) -> set[str]:
    """The files of the call that passed through the fewest: others had background work beside."""
    found = []
    for _ in range(3):
        with traced() as files:
            await call()
        found.append(files)
    return min(found, key=len)


def assert_few(files: set[str], most: int) -> None:
    assert 0 < len(files) <= most, "\n".join(sorted(files))


async def test_the_life_of_a_job(client: Client) -> None:
    await client.run(graphs.plain(1))
    async with client.listening() as listener:
        with traced() as files:
            prompt_id = await client.submit(graphs.plain(2))
            await listener.until_end(prompt_id)
    assert_few(files, JOB)


async def test_an_event(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    take = EventSocket._text
    found: set[str] = set()

    def take_traced(socket: EventSocket, text: str) -> None:
        if '"progress"' not in text or found:
            take(socket, text)
            return
        with traced() as files:
            take(socket, text)
        found.update(files)

    monkeypatch.setattr(EventSocket, "_text", take_traced)
    await client.run(graphs.sampled(1))
    assert_few(found, EVENT)
    documented = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [name for name in found if name not in documented] == []


async def test_the_queue(client: Client) -> None:
    await client.get("queue")
    assert_few(await fewest(lambda: client.get("queue")), QUEUE)


async def test_a_view_of_what_is_cached(client: Client) -> None:
    entry = await client.run(graphs.plain(1))
    (item,) = entry["outputs"]["2"]["images"]
    await client.view(item)
    assert_few(await fewest(lambda: client.view(item)), VIEW)
