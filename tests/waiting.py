"""What has no event, and is asked for again and again until it is so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from stack import TIMEOUT, Client


async def until(is_so: Callable[[], object]) -> None:
    """Wait until a condition holds, which may be a coroutine function."""
    async with asyncio.timeout(TIMEOUT):
        while not await _value(is_so()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def _value(found: object) -> object:
    return await found if isinstance(found, Awaitable) else found


async def ids(client: Client, state: str = "queue_pending") -> list[str]:
    return [item[1] for item in (await client.get("queue"))[1][state]]


async def running(client: Client) -> list[str]:
    return await ids(client, "queue_running")


async def queued(client: Client) -> list[str]:
    """Return the ids of all jobs in the queue, those that count as running first."""
    return [*await running(client), *await ids(client)]


async def ended(client: Client) -> list[str]:
    return list((await client.get("history"))[1])


async def until_ended(client: Client, count: int) -> list[str]:
    async with asyncio.timeout(TIMEOUT):
        while len(done := await ended(client)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return done
