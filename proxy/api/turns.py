"""Turns on the event loop: few pieces of a member's work begin in each of its iterations.

Thousands of connections that are ready at once would otherwise be served in one iteration, in which
nobody else is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakValueDictionary

#: Pieces of work of a member that begin in one iteration of the event loop: some ms.
MAX_BEGUN = 64


class LoopTurns:
    """The turns of one member."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> None:
        """Wait for a turn."""
        loop = asyncio.get_running_loop()
        if self._begun < MAX_BEGUN:
            if self._begun == 0:
                loop.call_soon(self._next_iteration)
            self._begun += 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _next_iteration(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < MAX_BEGUN:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next_iteration)


class MemberTurns:
    """The turns of all members, while anybody has them."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, LoopTurns] = WeakValueDictionary()

    def of(self, member: str) -> LoopTurns:
        """Return the turns of a member."""
        turns = self._turns.get(member)
        if turns is None:
            turns = self._turns[member] = LoopTurns()
        return turns
