"""Answers to requests that aiohttp does not parse, as bytes of HTTP."""

from __future__ import annotations

import asyncio

from proxy.translate import codec
from proxy.translate.errors import LocalError

#: Seconds in which a refused client must send something to get an answer.
REFUSAL_TIMEOUT = 2.0


def _raw(status: str, error: LocalError) -> bytes:
    """Return an answer as bytes, after which the connection is closed."""
    body = codec.dump_bytes(error.body())
    retry_after = "" if error.retry_after is None else f"Retry-After: {error.retry_after:.0f}\r\n"
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\n{retry_after}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


HEADERS_TOO_LARGE = _raw(
    "431 Request Header Fields Too Large",
    LocalError(
        "headers_too_large",
        "The headers of this request are too large in total; send fewer cookies or headers.",
    ),
)
TOO_MANY_CONNECTIONS = _raw(
    "503 Service Unavailable",
    LocalError(
        "too_many_connections",
        "The proxy has reached the setting `max_connections`; close some connections and try "
        "again.",
        retry_after=5,
    ),
)


class RefusedConnection(asyncio.Protocol):
    """Answers whatever comes first on a connection beyond the limit, and closes it.

    Until then it is one of the `others`.
    """

    def __init__(self, transport: asyncio.Transport, others: set[RefusedConnection]) -> None:
        self._transport = transport
        self._others = others
        others.add(self)
        transport.set_protocol(self)
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT, self.cut)

    def data_received(self, data: bytes) -> None:
        """Answer the request."""
        self._transport.write(TOO_MANY_CONNECTIONS)
        self._transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._timer.cancel()
        self._others.discard(self)

    def cut(self) -> None:
        """Abort the connection."""
        self._transport.abort()
