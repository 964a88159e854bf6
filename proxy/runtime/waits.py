"""Waits that end."""

from __future__ import annotations

import asyncio
from typing import Any


async def until_set(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until an event is set, for up to `seconds` if there is a limit. Return whether it is."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def stop(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel tasks, and wait until they have ended, however they do. `None` is a task that has not
    begun."""
    begun = [task for task in tasks if task is not None]
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)
