"""The moment in which a request is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import aiohttp

#: Whether the current task's request has begun to be sent.
request_sent: ContextVar[bool] = ContextVar("sent", default=False)
#: What may still stop the current task's requests.
_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def checked(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` immediately before each request of the block is sent. What it raises is raised,
    and nothing is sent.

    Before that a request waits for its turn and for a connection, for seconds, and the process may
    stand still meanwhile.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def begin_to_send() -> None:
    """Note that the current task's request is sent now. Raises what its check raises."""
    check = _check.get()
    if check is not None:
        check()
    request_sent.set(True)


class TrackedRequest(aiohttp.ClientRequest):
    """Notes when it is sent; a `TraceConfig` would cost more."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Note that the request is sent, and send it. Raises what its check raises."""
        begin_to_send()
        return await super().send(conn)
