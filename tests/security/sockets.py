"""Websockets of the attacker, as bytes."""

from __future__ import annotations

import asyncio

from security.attack import Target

UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def text_frame(payload: bytes, *, packed: bool = False) -> bytes:
    """A whole text message whose mask is 0 (RFC 6455, 5.2)."""
    head, size = b"\xc1" if packed else b"\x81", len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return head + length + bytes(4) + payload


async def opened_sockets(
    target: Target, count: int, headers: str = UPGRADE, *, query: str = ""
) -> list[asyncio.StreamWriter]:
    """Open websockets of Eve, with more parameters in the `query`."""
    opened: list[asyncio.StreamWriter] = []
    for number in range(count):
        head = (
            f"GET /ws?clientId=eve{number}{query} HTTP/1.1\r\nHost: {target.url.authority}\r\n"
            f"Authorization: Bearer {target.tokens['eve']}\r\n{headers}\r\n"
        )
        reader, writer = await target.connect(head.encode())
        opened.append(writer)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return opened
