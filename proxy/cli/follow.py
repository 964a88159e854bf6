"""Following a job to its end: the websocket for its progress, polling for its state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from proxy.cli.comfy import Comfy
from proxy.cli.failure import CommandError
from proxy.cli.progress import Display
from proxy.translate import codec

#: Seconds between two looks at the history, with the websocket open and without it.
POLL_WITH_SOCKET = 3.0
POLL_WITHOUT_SOCKET = 1.0
POLL_AT_THE_END = 0.1

#: Seconds for which a server may be away in the middle of a job.
PATIENCE = 60.0

_LAST_EVENTS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class Follower:
    """Follows one job. Let it listen before the submission and tell it the `prompt_id` after.

    The websocket is opened again whenever it breaks; without it the history tells the end.
    """

    def __init__(self, comfy: Comfy, client_id: str, display: Display) -> None:
        self._prompt_id: str | None = None
        self._early: list[aiohttp.WSMessage] = []
        self._comfy = comfy
        self._client_id = client_id
        self._display = display
        self._tried = asyncio.Event()
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Keep the websocket open; the block begins when a first try is over."""
        listener = asyncio.create_task(self._listen())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._tried.wait()
            yield
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def result(self, prompt_id: str) -> dict[str, Any]:
        """The history entry of the job, once it has ended.

        Raises `CommandError` when the job is gone from the server, or the server itself.
        """
        self._prompt_id = prompt_id
        while self._early:
            self._take(self._early.pop(0))
        clock = asyncio.get_running_loop()
        silent_since: float | None = None
        missed = 0
        while True:
            await self._wait()
            try:
                entry = await self._comfy.history(prompt_id)
                if entry is None and not self._ended.is_set():
                    missed = 0 if await self._queued(prompt_id) else missed + 1
                silent_since = None
            except (aiohttp.ClientError, TimeoutError) as error:
                silent_since = silent_since or clock.time()
                if clock.time() - silent_since > PATIENCE:
                    raise CommandError(
                        f"{self._comfy.base_url} has not answered for {PATIENCE:g} seconds "
                        f"({error}): look for job {prompt_id} in its history."
                    ) from None
                continue
            if entry is not None:
                return entry
            if missed >= 2:
                raise CommandError(
                    f"The server knows nothing of job {prompt_id} any more: it was removed "
                    "from the queue or the server was restarted, so submit it again."
                )

    async def _queued(self, prompt_id: str) -> bool:
        """Whether the job still waits or runs, or has ended while we were looking."""
        running, pending = await self._comfy.queued()
        return prompt_id in running | pending or await self._comfy.history(prompt_id) is not None

    async def _wait(self) -> None:
        if self._ended.is_set():
            await asyncio.sleep(POLL_AT_THE_END)
            return
        with suppress(TimeoutError):
            connected = self._connected.is_set()
            async with asyncio.timeout(POLL_WITH_SOCKET if connected else POLL_WITHOUT_SOCKET):
                await self._ended.wait()

    async def _listen(self) -> None:
        wait = 0.5
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._comfy.socket(self._client_id) as socket:
                    self._connected.set()
                    self._tried.set()
                    wait = 0.5
                    async for message in socket:
                        self._take(message)
            self._tried.set()
            self._connected.clear()
            await asyncio.sleep(wait)
            wait = min(wait * 2, 10)

    def _take(self, message: aiohttp.WSMessage) -> None:
        if self._prompt_id is None:
            self._early.append(message)
            return
        if message.type is aiohttp.WSMsgType.BINARY:
            self._display.frame(message.data, self._prompt_id)
        elif message.type is aiohttp.WSMsgType.TEXT:
            self._take_text(message.data)

    def _take_text(self, text: str) -> None:
        try:
            event = codec.loads(text)
        except ValueError:
            return
        kind, data = (event.get("type"), event.get("data")) if isinstance(event, dict) else ("", {})
        if not isinstance(data, dict) or data.get("prompt_id") != self._prompt_id:
            return
        self._display.event(str(kind), data)
        if kind in _LAST_EVENTS or (kind == "executing" and data.get("node") is None):
            self._ended.set()
