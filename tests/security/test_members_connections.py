"""Attacks by a member with connections: unfinished websocket messages and unread answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json

from security.attack import MEMBER, Target

#: The beginning of a websocket message of 4 MB.
FRAME = b"\x82\xff" + (4 * 1024 * 1024 - 1).to_bytes(8, "big") + b"\0\0\0\0"


def _request(target: Target, path: str, more: str = "") -> bytes:
    token = target.tokens["eve"]
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    ).encode()


UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def open_sockets(target: Target, count: int) -> list[asyncio.StreamWriter]:
    """Open websockets."""
    opened: list[asyncio.StreamWriter] = []
    for number in range(count):
        path = f"/ws?clientId=eve{number}"
        reader, writer = await target.connect(_request(target, path, UPGRADE))
        opened.append(writer)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return opened


async def test_unfinished_websocket_messages(target: Target) -> None:
    async with target.attacked_by(MEMBER) as figures:
        for writer in await open_sockets(target, 150):
            writer.write(FRAME + bytes(3_900_000))
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(2):
                    await writer.drain()
        await asyncio.sleep(1)
    assert figures.growth < 300


async def test_log_subscriptions_with_long_ids(target: Target) -> None:
    async with target.attacked_by(MEMBER) as figures:
        for number in range(8):
            wanted = {"clientId": f"{number}" + "x" * 15_000_000, "enabled": True}
            body = io.BytesIO(json.dumps(wanted).encode())
            status = await target.request(
                "PATCH",
                "internal/logs/subscribe",
                data=body,
                headers={"Content-Type": "application/json"},
            )
            assert status == 400
    assert figures.growth < 200
