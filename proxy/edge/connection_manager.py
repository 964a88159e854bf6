"""All connections of a listener: how they end."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import WSCloseCode

from proxy.edge.connections import GOING_AWAY, Admission, Connection
from proxy.edge.context import EdgeContext
from proxy.edge.counted_connections import MIN_SHARE, CountedConnections
from proxy.runtime.waits import until_set
from proxy.sharing.pool import Pool


class ConnectionManager:
    """The connections of a listener, of which at most `limit` are accepted."""

    def __init__(self, context: EdgeContext, limit: int) -> None:
        self._members = context.members
        self.pool = Pool(limit, MIN_SHARE)
        self.counted: CountedConnections[Connection] = CountedConnections(self.pool)

    def review(self) -> None:
        """End the connections of members whose access has ended."""
        holds: dict[Admission, bool] = {}
        for connection in self.counted.all():
            admission = connection.admission
            if admission is not None:
                if admission not in holds:
                    holds[admission] = admission.holds(self._members)
                if not holds[admission]:
                    connection.revoke()

    def end(self, *, keep_idle: bool = False) -> set[asyncio.Task[Any]]:
        """Let the connections of answers under way end after them, and return the tasks that send
        these; close idle connections unless they are kept. Websockets are left alone."""
        tasks = set()
        for connection in self.counted.all():
            if connection.task is not None:
                connection.is_ending = True
                tasks.add(connection.task)
            elif not connection.is_websocket and not keep_idle:
                connection.end()
        return tasks

    async def close(self, seconds: float) -> None:
        """Abort the refused connections, let websockets close, abort all that are not closed after
        half of `seconds`, and wait for their handlers in the rest.

        aiohttp logs an error of its own for each handler that ends as it gives up waiting.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        handlers = {*self._running(), *self.counted.handlers}
        self.counted.cut_refused()
        for connection in self.counted.all():
            connection.leave(WSCloseCode.SERVICE_RESTART, GOING_AWAY)
        await until_set(self.counted.empty, seconds / 2)
        for connection in self.counted.all():
            connection.cut()
        if handlers:
            await asyncio.wait(handlers, timeout=max(0.0, end - loop.time()))

    def _running(self) -> list[asyncio.Task[Any]]:
        """Return the handlers of the requests under way."""
        return [connection.task for connection in self.counted.all() if connection.task]
