"""The memory of a request: taken from its member's budget, and released after its answer.

Answers that are larger than the buffer of a connection are sent in pieces, as fast as the client
reads them, and their memory is released after that.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeVar

from aiohttp import Payload, web
from aiohttp.abc import AbstractStreamWriter

from proxy.api.keys import BUDGET, STREAMS, TURNS
from proxy.api.requests import connection_of, services_of
from proxy.sharing.budget import Allocation, Purpose
from proxy.sharing.owners import Owner
from proxy.translate.errors import LocalError

T = TypeVar("T")

#: Bytes of a body that are not counted: about as many as the transport of a connection buffers.
UNCOUNTED = 64 * 1024
#: Maximum bytes of one write.
PIECE = 256 * 1024


def owner_of(request: web.BaseRequest) -> str:
    """Return the owner of a request for `Turns`: its member, or else its address, which is no name
    of a member."""
    owner = request_owner(request)
    return owner.member or f"address {owner.address}"


async def in_turn(request: web.BaseRequest, work: Callable[[], T]) -> T:
    """Run work whose length a client has chosen, in a thread and in a turn of the request's
    owner."""
    return await services_of(request)[TURNS].run(owner_of(request), work)


def request_owner(request: web.BaseRequest) -> Owner:
    """Return the owner of a request: its member, or else its address."""
    return connection_of(request).sender


def allocate(request: web.BaseRequest, purpose: Purpose) -> Allocation:
    """Return an allocation of the sender of the request: its member, or else its address."""
    return services_of(request)[BUDGET].owner(request_owner(request), purpose)


def hold(request: web.Request, purpose: Purpose) -> Allocation:
    """Return an allocation that lasts until the request has its answer."""
    allocation = allocate(request, purpose)
    connection_of(request).allocations += (allocation,)
    return allocation


def forget_frames(error: BaseException | None) -> None:
    """Cut the tracebacks of an error that was handled, and of its causes.

    Streams and futures of a request keep their error, and its frames keep them: a cycle that would
    hold the bodies in these frames until a late collection, though they count no longer.
    """
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class CountedStream:
    """A websocket or a stream of events, which counts for the request's owner inside a `with`.

    Entering it raises `LocalError` (503) if the owner has too many.
    """

    __slots__ = ("_owner", "_pool")

    def __init__(self, request: web.BaseRequest) -> None:
        self._pool, self._owner = services_of(request)[STREAMS], request_owner(request)

    def __enter__(self) -> None:
        if not self._pool.take(self._owner, 1):
            raise LocalError(
                "too_many_streams",
                f"You have {self._pool.held(self._owner)} websockets and streams of events, and "
                "the rest is reserved for others; close some and try again.",
                kind="unavailable",
                retry_after=5,
            )

    def __exit__(self, *_: object) -> None:
        self._pool.give_back(self._owner, 1)


class LargeBody(Payload):
    """A body that is written in pieces, as fast as the client reads it.

    aiohttp would write bytes to the transport at once, which buffers all that the client does not
    read.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__(body, content_type=None)
        self._held: Allocation | None = None

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self._value)

    def hold(self, request: web.BaseRequest) -> None:
        """Take its memory from the budget. Raises `MemoryLimitError`."""
        if self._held is None:
            held = allocate(request, "answer")
            held.grow(self.size)
            self._held = held
            weakref.finalize(self, held.release)  # for an answer that is never sent

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body in pieces."""
        body = memoryview(self._value)
        for start in range(0, len(body), PIECE):
            await writer.write(body[start : start + PIECE])

    async def close(self) -> None:
        """Release the memory."""
        self._value = b""
        if self._held is not None:
            self._held.release()
