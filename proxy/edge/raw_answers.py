"""Answers to requests that aiohttp does not parse, as bytes of HTTP."""

from __future__ import annotations

from proxy.translate import codec
from proxy.translate.errors import LocalError


def _raw(error: LocalError, status: str) -> bytes:
    """Return an answer as bytes, after which the connection is closed."""
    body = codec.dump_bytes(error.body())
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


HEADERS_TOO_LARGE = _raw(
    LocalError(
        "headers_too_large",
        "The headers of this request are too large together; send fewer cookies or headers, or "
        "increase the setting `max_header_kb`.",
    ),
    "431 Request Header Fields Too Large",
)
