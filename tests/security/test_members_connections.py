"""Attacks by a member with connections: unfinished websocket messages and unread answers."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json

from security.attack import MEMBER, Target
from security.sockets import opened_sockets

#: The beginning of a websocket message of 4 MB.
FRAME = b"\x82\xff" + (4 * 1024 * 1024 - 1).to_bytes(8, "big") + b"\0\0\0\0"

HEAD = b"GET /queue HTTP/1.1\r\nHost: x\r\n"


def _request(target: Target, path: str, more: str = "") -> bytes:
    token = target.tokens["eve"]
    return (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    ).encode()


async def test_unfinished_websocket_messages(target: Target) -> None:
    async with target.attacked_by(MEMBER) as figures:
        for writer in await opened_sockets(target, 150):
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


async def test_unread_answers(target: Target) -> None:
    request = _request(target, "/object_info", "Accept-Encoding: identity\r\n")
    async with target.attacked_by(MEMBER) as figures:
        for _ in range(300):
            await target.connect(request * 20)
        await asyncio.sleep(2)
    assert figures.growth < 300


async def test_requests_behind_an_unread_answer(target: Target) -> None:
    """Parts of requests that wait for the answer to another."""
    request = _request(target, "/object_info", "Accept-Encoding: identity\r\n")
    after = HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 15_000) for number in range(16))
    async with target.attacked_by(MEMBER) as figures:
        for _ in range(300):
            await target.connect(request * 4 + after)
        await asyncio.sleep(2)
    assert figures.growth < 300


async def test_very_many_small_websocket_messages(target: Target) -> None:
    pings, texts = b"\x89\x80\0\0\0\0" * 200_000, b"\x81\x82\0\0\0\0[]" * 100_000
    async with target.attacked_by(MEMBER):
        for writer in await opened_sockets(target, 8):
            writer.write(pings + texts)
        await asyncio.sleep(5)


async def test_bodies_in_chunks_of_one_byte(target: Target) -> None:
    """Each of the connections sends them for some seconds."""
    head = (
        "POST /prompt HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: Bearer {target.tokens['eve']}\r\n\r\n"
    ).encode()
    async with target.attacked_by(MEMBER):
        opened = [await target.connect(head) for _ in range(120)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4):
                await asyncio.gather(*(_send_chunks(writer) for _, writer in opened))
        target.let_go()


async def _send_chunks(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(b"1\r\n \r\n" * 40_000)
            await writer.drain()
