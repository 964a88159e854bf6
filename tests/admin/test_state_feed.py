"""One feed of the dashboard's states for many streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.admin.state import StateScope
from proxy.admin.state_feed import StateFeed, StateFeeds
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.members.directory import Directory
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import StorageError
from proxy.translate.errors import LocalError


async def test_a_stream_that_comes_after_a_failure_waits_for_a_new_state() -> None:
    unused: Any = None
    jobs = LiveFeed(unused, unused, History(unused, None))
    states: list[Any] = [{"running": [1]}, StorageError("away"), {"running": [2]}]

    async def make() -> Any:
        state = states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    feed = StateFeed(jobs, make)
    first = asyncio.create_task(feed.after(None))
    with pytest.raises(StorageError):
        await feed.run()
    old = await first
    assert old is not None
    again = asyncio.create_task(feed.run())
    newest = await feed.after(None)
    assert newest is not None
    assert (newest.number, b"[2]" in newest.event) == (old.number + 1, True)
    again.cancel()


ANN, BOB = StateScope("ann", True, False), StateScope("bob", False, False)


class Maker:
    """Makes states, each of which is done when it may go on; `made` counts them."""

    def __init__(self) -> None:
        self.made = 0
        self.began = asyncio.Event()
        self.go = asyncio.Event()
        self.error: LocalError | None = None

    async def __call__(self, scope: StateScope) -> Any:
        self.made += 1
        number = self.made
        self.began.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return {"viewer": scope.viewer, "number": number}


@pytest.fixture
async def maker() -> Maker:
    return Maker()


@pytest.fixture
async def feeds(maker: Maker) -> AsyncIterator[StateFeeds]:
    unused: Any = None
    supervisor = Supervisor()
    jobs = LiveFeed(unused, unused, History(unused, None))
    yield StateFeeds(Directory(), jobs, supervisor, maker)
    await supervisor.close()


async def test_those_who_wait_get_one_state_that_is_read_after_they_asked(
    feeds: StateFeeds, maker: Maker
) -> None:
    first = asyncio.create_task(feeds.now(ANN))
    await maker.began.wait()
    others = [asyncio.create_task(feeds.now(ANN)) for _ in range(100)]
    await asyncio.sleep(0)
    maker.go.set()
    assert b'"number": 1' in await first
    assert {b'"number": 2' in state for state in await asyncio.gather(*others)} == {True}
    assert b'"number": 3' in await feeds.now(ANN)


async def test_each_scope_has_its_own_state(feeds: StateFeeds, maker: Maker) -> None:
    maker.go.set()
    ann, bob = await asyncio.gather(feeds.now(ANN), feeds.now(BOB))
    assert (b"ann" in ann, b"bob" in bob) == (True, True)


async def test_an_error_is_that_of_all_who_wait(feeds: StateFeeds, maker: Maker) -> None:
    maker.error = LocalError("x", "It does not work.")
    maker.go.set()
    states = await asyncio.gather(feeds.now(ANN), feeds.now(ANN), return_exceptions=True)
    assert states == [maker.error] * 2
