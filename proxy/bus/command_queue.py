"""Commands to the server of a bus: those that wait to be sent, and those without an answer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeAlias

#: Maximum bytes of one write to the connection. What still waits can be dropped.
_MAX_BATCH = 256 * 1024

Command: TypeAlias = tuple[str | bytes, ...]


class CommandQueue:
    """Commands in the order in which they are sent and answered, and who waits for answers.

    Messages that wait have at most `max_bytes`.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        #: Commands and waiters, with the bytes of a message and whether it is droppable.
        self._outgoing: deque[tuple[Command | asyncio.Future[None], int, bool]] = deque()
        self._outgoing_bytes = 0
        self._has_outgoing = asyncio.Event()
        #: Commands without an answer (`None`), and waiters for the answers to all before them.
        self._unanswered: deque[asyncio.Future[None] | None] = deque()
        #: The waiter of `round_trip` while it is not sent.
        self._round_trip: asyncio.Future[None] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether all commands are answered."""
        return not (self._outgoing or self._unanswered)

    def put(self, command: Command) -> None:
        """Append a command."""
        self._append(command)

    def put_message(self, command: Command, size: int, *, droppable: bool) -> bool:
        """Append a message of `size` bytes. Return whether none was lost for it.

        Beyond the limit droppable ones are dropped, which are no loss, and then all.
        """
        self._append(command, size, droppable)
        return self._outgoing_bytes <= self._max_bytes or self._drop()

    async def answers(self) -> None:
        """Wait until the server has answered all commands up to now, or the queue is cleared."""
        waiter = asyncio.get_running_loop().create_future()
        self._append(waiter)
        await waiter

    def round_trip(self) -> asyncio.Future[None]:
        """Return what is done when the server has answered a command that is sent from now on.

        Callers share it until it is sent.
        """
        waiter = self._round_trip
        if waiter is None:
            self._append(("PING",))
            waiter = self._round_trip = asyncio.get_running_loop().create_future()
            self._append(waiter)
        return waiter

    async def next_batch(self) -> list[Command]:
        """Wait for commands, and return those to send now. They count as unanswered."""
        while True:
            while self._outgoing:
                if commands := self._drain():
                    return commands
            self._has_outgoing.clear()
            await self._has_outgoing.wait()

    def answered(self) -> None:
        """Remove the oldest unanswered command, and release who waits for its answer."""
        self._unanswered.popleft()
        self._settle()

    def clear(self) -> None:
        """Remove all commands, and release who waits for their answers."""
        waiters = [what for what, _, _ in self._outgoing if isinstance(what, asyncio.Future)]
        waiters += [what for what in self._unanswered if what is not None]
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._unanswered.clear()
        self._round_trip = None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _append(
        self, what: Command | asyncio.Future[None], size: int = 0, droppable: bool = False
    ) -> None:
        self._outgoing.append((what, size, droppable))
        self._outgoing_bytes += size
        self._has_outgoing.set()

    def _drop(self) -> bool:
        """Drop the oldest droppable messages and, if that is not enough, all messages. Return
        whether it was enough.

        At least a quarter of the limit is free afterwards, so that this is rare.
        """
        kept: deque[tuple[Command | asyncio.Future[None], int, bool]] = deque()
        limit = self._max_bytes * 3 // 4
        for what, size, droppable in self._outgoing:
            if droppable and self._outgoing_bytes > limit:
                self._outgoing_bytes -= size
            else:
                kept.append((what, size, droppable))
        self._outgoing = kept
        if self._outgoing_bytes <= self._max_bytes:
            return True
        self._outgoing = deque(item for item in kept if not item[1])
        self._outgoing_bytes = 0
        return False

    def _drain(self) -> list[Command]:
        """Return a batch of commands, and note them as unanswered."""
        commands: list[Command] = []
        size = 0
        while self._outgoing and size < _MAX_BATCH:
            what, bytes_, _ = self._outgoing.popleft()
            size += bytes_
            if isinstance(what, asyncio.Future):
                self._unanswered.append(what)
                if what is self._round_trip:
                    self._round_trip = None
            else:
                commands.append(what)
                self._unanswered.append(None)
        self._outgoing_bytes -= size
        self._settle()
        return commands

    def _settle(self) -> None:
        while self._unanswered and (waiter := self._unanswered[0]) is not None:
            self._unanswered.popleft()
            if not waiter.done():
                waiter.set_result(None)
