"""Names of hosts, looked up in threads of their own.

A name server that does not answer holds a thread for half a minute. The threads of the event loop,
which read and write files, are not for what members choose, and of these each owner of webhooks has
some turns.
"""

from __future__ import annotations

import socket
from contextvars import ContextVar
from functools import partial
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from proxy.runtime import threads
from proxy.sharing.turns import Turns

#: Names that are looked up at once, and those of one owner.
_THREADS, _EACH = 32, 4

#: The owner of the webhook whose host is looked up in this task, and in those that it starts.
OWNER: ContextVar[str] = ContextVar("webhook_owner", default="")


class OwnThreadsResolver(AbstractResolver):
    """A resolver with `getaddrinfo` in its own threads."""

    def __init__(self) -> None:
        self._threads = threads.pool(_THREADS, "webhook resolver")
        self._turns = Turns(_EACH, _THREADS)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises `OSError`."""
        look_up = partial(_look_up, host, port, family)
        found = await self._turns.run(OWNER.get(), look_up, threads=self._threads)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Look up no more names; those under way are not waited for."""
        self._threads.shutdown(wait=False)  # none waits: each has its turn


def _look_up(
    host: str, port: int, family: socket.AddressFamily
) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]]:
    return list(
        socket.getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
    )
