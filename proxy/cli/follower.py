"""How `run` follows a job: by the websocket of a client, and by the queue and the history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from proxy.cli.comfy import Comfy
from proxy.cli.common import CommandError
from proxy.cli.progress import Display
from proxy.runtime.backoff import Backoff
from proxy.runtime.waits import until_set
from proxy.translate import codec

#: Seconds between two queries of the history, with the websocket open and without it.
POLL_WITH_SOCKET = 3.0
POLL_WITHOUT_SOCKET = 1.0
POLL_AT_THE_END = 0.1
#: Seconds before the first query, which says how many jobs are ahead.
POLL_FIRST = 0.2
#: Seconds for which a server may be away in the middle of a job.
ANSWER_TIMEOUT = 60.0
_LAST_EVENTS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


@dataclass(slots=True, eq=False)
class Follower:
    """A follower of one job. Let it listen before the submission and tell it the `prompt_id` after.

    The websocket is opened again whenever it breaks; without it the history tells the end.
    """

    comfy: Comfy
    client_id: str
    display: Display
    _prompt_id: str | None = field(init=False, default=None)
    _early: list[aiohttp.WSMessage] = field(init=False, default_factory=list)
    _tried: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _connected: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _ended: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Keep the websocket open; the block begins when a first try is over."""
        listener = asyncio.create_task(self._listen())
        try:
            await until_set(self._tried, 5)
            yield
        finally:
            while not listener.done():  # a cancellation can get lost in a connection that fails
                listener.cancel()
                await asyncio.wait([listener], timeout=1.0)

    async def result(self, prompt_id: str) -> dict[str, Any]:
        """Return the history entry of the job, once it has ended.

        Raises `CommandError` when the job is gone from the server, or the server itself.
        """
        self._prompt_id = prompt_id
        while self._early:
            self._receive(self._early.pop(0))
        clock = asyncio.get_running_loop()
        silent_since: float | None = None
        missed = 0
        await self._wait(POLL_FIRST)
        while True:
            try:
                entry = await self.comfy.history(prompt_id)
                if entry is None and not self._ended.is_set():
                    missed = 0 if await self._queued(prompt_id) else missed + 1
                silent_since = None
            except (aiohttp.ClientError, TimeoutError) as error:
                silent_since = silent_since or clock.time()
                if clock.time() - silent_since > ANSWER_TIMEOUT:
                    raise CommandError(
                        f"{self.comfy.base_url} has not answered for {ANSWER_TIMEOUT:g} seconds "
                        f"({error}): check its history for job {prompt_id}."
                    ) from None
                entry = None
            if entry is not None:
                return entry
            if missed >= 2:
                raise CommandError(
                    f"The server no longer has job {prompt_id}: it was removed from the queue, or "
                    "the server was restarted. Submit it again."
                )
            await self._wait(POLL_WITH_SOCKET if self._connected.is_set() else POLL_WITHOUT_SOCKET)

    async def _queued(self, prompt_id: str) -> bool:
        """Return whether the job still waits or runs, or has ended during the check."""
        running, pending = await self.comfy.queued()
        if prompt_id in pending:
            self.display.waiting(len(running) + pending.index(prompt_id))
            return True
        return prompt_id in running or await self.comfy.history(prompt_id) is not None

    async def _wait(self, seconds: float) -> None:
        if self._ended.is_set():
            await asyncio.sleep(POLL_AT_THE_END)
            return
        await until_set(self._ended, seconds)

    async def _listen(self) -> None:
        backoff, failures = Backoff(first=0.5, longest=10.0), 0
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self.comfy.socket(self.client_id) as socket:
                    self._connected.set()
                    self._tried.set()
                    failures = 0
                    async for message in socket:
                        self._receive(message)
            self._tried.set()
            self._connected.clear()
            failures += 1
            await asyncio.sleep(backoff.after(failures))

    def _receive(self, message: aiohttp.WSMessage) -> None:
        if self._prompt_id is None:
            self._early.append(message)
            return
        if message.type is aiohttp.WSMsgType.BINARY:
            self.display.frame(message.data, self._prompt_id)
        elif message.type is aiohttp.WSMsgType.TEXT:
            self._receive_text(message.data)

    def _receive_text(self, text: str) -> None:
        try:
            event = codec.loads(text)
        except ValueError:
            return
        kind, data = (event.get("type"), event.get("data")) if isinstance(event, dict) else ("", {})
        if not isinstance(data, dict) or data.get("prompt_id") != self._prompt_id:
            return
        self.display.event(str(kind), data)
        if kind in _LAST_EVENTS or (kind == "executing" and data.get("node") is None):
            self._ended.set()
