"""Looks after all connections of a server: how many they are, which are too slow, which to end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from proxy.api.guard import REFUSAL_PATIENCE, Entry, Guard, Limits

log = structlog.get_logger(__name__)

#: So many connections beyond the limit are told why they are refused; others are just cut.
REFUSALS = 256


class Watch:
    """The guards of a server (a `guard.Watch`)."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._guards: set[Guard] = set()
        self._timed: set[Guard] = set()
        self._refused = 0
        self._stirred = asyncio.Event()

    def guard(self, inner: asyncio.Protocol) -> Guard:
        """A guard for a new connection."""
        return Guard(self, inner)

    # --- what the guards tell --------------------------------------------------------------

    def now(self) -> float:
        """Seconds of a clock that never jumps."""
        return self._now()

    def take_in(self, guard: Guard) -> Entry:
        """Count a new connection, and say what becomes of it."""
        self._guards.add(guard)
        if len(self._guards) - self._refused <= self._limits.max_connections:
            return Entry.WELCOME
        if self._refused == 0:
            log.warning("too_many_connections", limit=self._limits.max_connections)
        self._refused += 1
        return Entry.REFUSED if self._refused <= REFUSALS else Entry.CUT

    def changed(self, guard: Guard, *, timed: bool) -> None:
        """A connection is in another state; a `timed` one is checked now and then."""
        if timed:
            self._timed.add(guard)
        else:
            self._timed.discard(guard)
            self._stirred.set()

    def forget(self, guard: Guard, *, refused: bool) -> None:
        """A connection is gone."""
        self._guards.discard(guard)
        self._timed.discard(guard)
        self._refused -= refused
        self._stirred.set()

    # --- what the server asks for ----------------------------------------------------------

    async def run(self) -> None:
        """End what is too slow, until cancelled."""
        bounds = (self._limits.header_timeout, self._limits.body_timeout, REFUSAL_PATIENCE)
        pause = min(1.0, *(bound / 4 for bound in bounds if bound > 0))
        while True:
            await asyncio.sleep(pause)
            now = self._now()
            for guard in list(self._timed):
                guard.check(now, self._limits)

    async def settle(self, patience: float) -> bool:
        """Close what is idle and wait for the answers under way, at most `patience` seconds.

        Says whether all have gone out.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while True:
                    self._stirred.clear()
                    for guard in list(self._guards):
                        guard.close_unless_busy()
                    if not any(guard.busy for guard in self._guards):
                        return True
                    await self._stirred.wait()
        return False

    def cancel(self) -> int:
        """Cancel the handlers that still run; their number."""
        busy = [guard for guard in self._guards if guard.busy]
        for guard in busy:
            guard.cancel()
        return len(busy)

    async def cut(self, patience: float) -> None:
        """Close what is left, and cut what is not closed after `patience` seconds."""
        for guard in list(self._guards):
            guard.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._guards:
                    self._stirred.clear()
                    await self._stirred.wait()
        for guard in list(self._guards):
            guard.abort()
