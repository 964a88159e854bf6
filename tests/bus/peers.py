"""Buses on a server, and a message for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from proxy.bus import BusMessage, EventBus
from proxy.bus.valkey import ValkeyBus


class News(BusMessage, frozen=True):
    """A message as the rooms send them."""

    number: int
    image: bytes = b""
    text: str = ""


@asynccontextmanager
async def running(bus: ValkeyBus) -> AsyncIterator[ValkeyBus]:
    """A bus that is connected."""
    task = asyncio.create_task(bus.run())
    try:
        assert await bus.wait_connected(30)
        yield bus
    finally:
        await bus.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextmanager
def listening(bus: EventBus, topic: str) -> Iterator[asyncio.Queue[Any]]:
    """What comes on a topic."""
    received = asyncio.Queue[Any]()
    with bus.subscribe(topic, received.put_nowait):
        yield received


async def read(received: asyncio.Queue[Any], count: int) -> list[Any]:
    async with asyncio.timeout(30):
        return [await received.get() for _ in range(count)]
