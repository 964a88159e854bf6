"""What tests of the queue ask again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from stack import PATIENCE, Client


async def until(is_so: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110 (what is asked for has no event)
            await asyncio.sleep(0.005)


async def ids(client: Client, state: str = "queue_pending") -> list[str]:
    return [item[1] for item in (await client.get("queue"))[1][state]]


async def running(client: Client) -> list[str]:
    return await ids(client, "queue_running")


async def ended(client: Client) -> list[str]:
    return list((await client.get("history"))[1])


async def until_ended(client: Client, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        while len(done := await ended(client)) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return done
