"""The streams of the dashboard's state.

A state is read and serialised once for all streams that show the same, however many there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from msgspec import Struct

from proxy.admin.schema.state import State
from proxy.admin.state import StateScope
from proxy.jobs.live_feed import LiveFeed
from proxy.members.directory import Directory
from proxy.runtime.shared_work import NextReading
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import until_set
from proxy.translate import codec

#: Seconds: the least between two states, the most while a job runs, the most while none does.
OFTEN, LIVELY, QUIET = 0.25, 1.0, 15.0
#: Streams that get a state in one round of the event loop.
STREAMS_A_ROUND = 16


class StateMessage(Struct, frozen=True):
    """A state as server-sent event. `number` counts the states of a feed, `member_changes` how
    often members or tokens have changed before."""

    number: int
    event: bytes
    member_changes: int


class StateFeed:
    """The states of one scope, which `make` returns; only the newest is kept."""

    def __init__(self, jobs: LiveFeed, make: Callable[[], Awaitable[State]]) -> None:
        self.streams = 0
        self.task: asyncio.Task[None] | None = None
        self._jobs = jobs
        self._make = make
        self._news = asyncio.Event()
        self._last: StateMessage | None = None
        self._is_current = False
        self._member_changes = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def run(self) -> None:
        """Make states for those who wait, until cancelled. Raises `StorageError`."""
        with self._jobs.watched(self._changed):
            while True:
                self._news.clear()
                self._is_current = True
                changes = self._member_changes
                try:
                    state = await self._make()
                except BaseException:
                    self._is_current = False  # the last state is an older one
                    raise
                event = b"event: state\ndata: " + codec.dump_bytes(state) + b"\n\n"
                number = 1 if self._last is None else self._last.number + 1
                self._last = StateMessage(number, event, changes)
                await self._wake()
                await asyncio.sleep(OFTEN)
                await until_set(self._news, LIVELY if state["running"] else QUIET)

    async def after(self, last: StateMessage | None) -> StateMessage | None:
        """Return a state that is newer than the `last` one of a stream, for a new stream the
        newest; `None` if the streams end meanwhile."""
        known = self._last
        if known is not None and (self._is_current if last is None else known.number > last.number):
            return known
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter
        return None if self._last is last else self._last

    def end(self) -> None:
        """Wake all streams, which look whether they go on."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def _wake(self) -> None:
        """Let the streams that wait take the newest state, some in each round of the loop."""
        waiting, self._waiting = self._waiting, []
        for begin in range(0, len(waiting), STREAMS_A_ROUND):
            for waiter in waiting[begin : begin + STREAMS_A_ROUND]:
                if not waiter.done():
                    waiter.set_result(None)
            await asyncio.sleep(0)

    def members_changed(self) -> None:
        """Note that members or tokens are others."""
        self._member_changes += 1
        self._changed()

    def _changed(self) -> None:
        self._is_current = False
        self._news.set()


class StateFeeds:
    """The feeds that somebody follows, by scope. `make` returns the state of a scope."""

    def __init__(
        self,
        members: Directory,
        jobs: LiveFeed,
        supervisor: Supervisor,
        make: Callable[[StateScope], Awaitable[State]],
    ) -> None:
        members.subscribe(self._members_changed)
        self._jobs = jobs
        self._supervisor = supervisor
        self._make = make
        self._feeds: dict[StateScope, StateFeed] = {}
        self._readings: NextReading[StateScope, bytes] = NextReading()

    def _members_changed(self) -> None:
        for feed in self._feeds.values():
            feed.members_changed()

    async def now(self, scope: StateScope) -> bytes:
        """Return the JSON of a state that is read from now on, once for all who wait for it.

        Raises `LocalError` and `StorageError`.
        """
        return await self._readings.get(scope, lambda: self._read(scope))

    async def _read(self, scope: StateScope) -> bytes:
        return codec.dump_bytes(await self._make(scope))

    @contextmanager
    def follow(self, scope: StateScope) -> Iterator[StateFeed]:
        """Yield the feed of a scope, which works while any stream follows it."""
        feed = self._feeds.get(scope)
        if feed is None:
            feed = StateFeed(self._jobs, lambda: self._make(scope))
            self._feeds[scope] = feed
            feed.task = self._supervisor.keep(feed.run, "make states of the dashboard")
        feed.streams += 1
        try:
            yield feed
        finally:
            feed.streams -= 1
            if not feed.streams and feed.task is not None:
                feed.task.cancel()
                del self._feeds[scope]

    def end(self) -> None:
        """Let all streams look whether they go on: the server stops."""
        for feed in self._feeds.values():
            feed.end()

    async def close(self) -> None:
        """Stop reading states."""
        await self._readings.close()


STATE_FEEDS = web.AppKey("state_feeds", StateFeeds)
