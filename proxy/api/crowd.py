"""All open websockets, and how `status` reaches many of them.

Every change of the queue is told to every socket. A few hear it at once, as from a local ComfyUI.
With thousands that would be most of the work of a busy server, so they hear it by turns, in a
share of its time, and each hears only the newest. A socket with something else to hear hears its
`status` before that, so that the order on each of them stays.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Protocol

from proxy.translate.messages import Message

#: So many sockets hear every `status` at once.
FEW = 100
#: How many of the others are served at a stretch.
STRETCH = 50
#: The share of the time that goes to them.
SHARE = 0.2


class Listener(Protocol):
    """A websocket of a client."""

    def deliver_held(self, message: Message) -> None:
        """It is the socket's turn to hear this."""

    def leave(self, code: int, reason: str) -> asyncio.Task[None]:
        """Say goodbye, and cut the connection when the client does not say so too."""


class Crowd:
    """The open sockets of a server."""

    def __init__(self) -> None:
        self._sockets: set[Listener] = set()
        self._held: dict[Listener, Message] = {}
        self._serving: asyncio.Task[None] | None = None

    def join(self, socket: Listener) -> None:
        """A socket was opened."""
        self._sockets.add(socket)

    def leave(self, socket: Listener) -> None:
        """A socket is gone."""
        self._sockets.discard(socket)
        self._held.pop(socket, None)

    def hold(self, socket: Listener, message: Message) -> bool:
        """Take a message for its turn, in place of an older one; false if it may go at once."""
        if len(self._sockets) <= FEW:
            return False
        self._held[socket] = message
        if self._serving is None:
            self._serving = asyncio.create_task(self._serve(), name="status by turns")
        return True

    def take(self, socket: Listener) -> Message | None:
        """The message that is held for a socket, which delivers it now."""
        return self._held.pop(socket, None)

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye to everybody."""
        goodbyes = [socket.leave(code, reason) for socket in self._sockets]
        if goodbyes:
            await asyncio.wait(goodbyes)
        if self._serving is not None:
            self._serving.cancel()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._held:
            begun = loop.time()
            for socket in list(islice(self._held, STRETCH)):
                socket.deliver_held(self._held.pop(socket))
            await asyncio.sleep(0)  # here they write
            await asyncio.sleep((loop.time() - begun) * (1 / SHARE - 1))
        self._serving = None
