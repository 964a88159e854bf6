"""Waits that end."""

from __future__ import annotations

import asyncio


async def until_set(event: asyncio.Event, seconds: float) -> bool:
    """Wait until an event is set, for up to `seconds`. Return whether it is."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
