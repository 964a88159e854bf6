"""One feed of the dashboard's states for many streams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from proxy.admin.state_feed import StateFeed
from proxy.bus import EventBus
from proxy.jobs.live_feed import LiveFeed
from proxy.storage.database import StorageError


async def test_a_stream_that_comes_after_a_failure_waits_for_a_new_state() -> None:
    unused: Any = None
    bus = EventBus()
    jobs = LiveFeed(unused, unused, unused)
    states: list[Any] = [{"running": [1]}, StorageError("away"), {"running": [2]}]

    async def make() -> Any:
        state = states.pop(0)
        if isinstance(state, Exception):
            raise state
        return state

    feed = StateFeed(bus, jobs, make)
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
