"""The stream of one job's events, as the content of a response of a deployment."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from simulation.loop import Process
    from simulation.world import World

#: Seconds between two comments of a stream that shows nothing.
_COMMENT = 15.0


class EventStream:
    """A stream: frames in order, cut anywhere. It breaks, is late, stands still, and loses and
    repeats frames."""

    def __init__(self, world: World, host: str, job: str) -> None:
        self._world = world
        self._host = host
        self.job = job
        #: Who reads it, unless the answer was lost, and after how many seconds of silence it is
        #: given up.
        self.process: Process | None = None
        self.silence: float | None = None
        self._inbox: deque[bytes] = deque()
        self._news = asyncio.Event()
        self._arrives = 0.0
        self._open = True
        self._broken = False
        #: Whether it stays open, and nothing comes.
        self._hangs = False
        self._comment()

    def tell(self, type_: str, data: dict[str, Any]) -> None:
        """Let a frame arrive after those before it."""
        weather = self._world.weather
        self._hangs = self._hangs or weather.chance("stream_hangs")
        if weather.chance("stream_closed"):
            self.lose()
            return
        if weather.chance("event_lost"):
            return
        frame = f"event: {type_}\ndata: {json.dumps(data)}\n\n".encode()
        for _ in range(2 if weather.chance("event_repeated") else 1):
            cut = int(weather.draw(0, len(frame)))
            self._send(frame[:cut])
            self._send(frame[cut:])

    def end(self) -> None:
        """End it, after what is under way."""
        self._send(None)

    def lose(self) -> None:
        """Let it break, or end too early, with all that is under way."""
        self._broken = self._world.weather.draw(0.0, 1.0) < 0.5
        self.close()

    def close(self) -> None:
        """Take nothing more."""
        self._open = False
        streams = self._world.clouds[self._host].sockets
        if self in streams:
            streams.remove(self)
        self._news.set()

    def _comment(self) -> None:
        if self._open:
            self._send(b": still there\n\n")
            self._world.loop.in_world(_COMMENT, self._comment)

    def _send(self, data: bytes | None) -> None:
        weather, loop = self._world.weather, self._world.loop
        if self._hangs or weather.cloud_away(self.process, self._host):
            return
        late = weather.draw(0.5, 20.0) if weather.chance("stream_late") else 0.0
        self._arrives = max(self._arrives + 1e-6, loop.time() + weather.draw(0.005, 0.05) + late)
        loop.in_world(self._arrives - loop.time(), self._arrived, data)

    def _arrived(self, data: bytes | None) -> None:
        if data is None:
            self.close()
        elif self._open:
            self._inbox.append(data)
            self._news.set()

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield what arrives, until the end. Raises `aiohttp.ClientPayloadError`, `TimeoutError`"""
        while True:
            while not self._inbox:
                if not self._open:
                    if self._broken:
                        raise aiohttp.ClientPayloadError
                    return
                self._news.clear()
                async with asyncio.timeout(self.silence):
                    await self._news.wait()
            yield self._inbox.popleft()
