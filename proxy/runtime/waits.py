"""Waits that end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


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


async def finish(work: Coroutine[Any, Any, T], seconds: Callable[[], float] | None = None) -> T:
    """Await `work` to its end; a cancellation of the caller is raised after that, or after so many
    `seconds` as there are then, when the work is cancelled as well.

    Nobody could know how far work that was cancelled halfway had come.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=None if seconds is None else seconds())
        if not task.done():
            await stop(task)
        elif not task.cancelled():
            task.exception()  # the caller, who is gone, does not fetch it
        raise
