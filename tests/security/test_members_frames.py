"""Members whose websocket messages, or the chunks of whose bodies, take long to read."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import zlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from security.attack import MEMBER, Target, busy
from security.sockets import UPGRADE, opened_sockets, text_frame

#: A client may send this whatever the server has agreed to.
PACKED = UPGRADE + "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def packed_frame(text: bytes) -> bytes:
    """A whole text message, packed (RFC 7692)."""
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)
    return text_frame(packed[:-4], packed=True)


async def send_all(writers: list[asyncio.StreamWriter], sent: bytes, seconds: float) -> None:
    """Send as much as is taken in this time, on all connections at once."""

    async def send(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*map(send, writers))


@pytest.mark.parametrize(("sockets", "messages"), [(20, 120), (5, 60)])
async def test_messages_that_unpack_to_megabytes(
    target: Target, sockets: int, messages: int
) -> None:
    sent = packed_frame(b" " * 4_000_000) * messages
    async with target.attacked_by(MEMBER):
        await send_all(await opened_sockets(target, sockets, PACKED), sent, 10)
        await asyncio.sleep(5)


async def test_messages_of_megabytes(target: Target) -> None:
    async with target.attacked_by(MEMBER):
        await send_all(await opened_sockets(target, 20), text_frame(bytes(4_000_000)) * 3, 8)
        await asyncio.sleep(2)


async def test_texts_that_could_have_feature_flags(target: Target) -> None:
    text = b"[" + b"0," * 32_000 + b"0]"
    async with target.attacked_by(MEMBER):
        await send_all(await opened_sockets(target, 100), text_frame(text) * 20, 8)
        await asyncio.sleep(2)


async def test_packed_texts_that_could_have_feature_flags(target: Target) -> None:
    sent = packed_frame(b"[" + b"0," * 32_000 + b"0]") * 60
    async with target.attacked_by(MEMBER):
        await send_all(await opened_sockets(target, 100, PACKED), sent, 8)
        await asyncio.sleep(2)


async def show(target: Target, text: str, client_id: str | None) -> int:
    """Submit a job that shows a text; return the status of the answer."""
    graph = {"1": {"class_type": "PreviewAny", "inputs": {"source": text}}}
    body = {"prompt": graph} if client_id is None else {"prompt": graph, "client_id": client_id}
    sent = io.BytesIO(json.dumps(body).encode())
    return await target.request("POST", "prompt", data=sent)


@pytest.mark.parametrize("reads", [True, False])
async def test_a_text_of_megabytes_to_many_sockets(target: Target, reads: bool) -> None:
    text = "a" * 4_000_000
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def listen(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            heard.put_nowait(len(message.data))

    connector, url = aiohttp.TCPConnector(limit=0), target.url / "ws"
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        asyncio.TaskGroup() as listening,
        target.attacked_by(MEMBER),
    ):
        sockets = [
            await session.ws_connect(
                url.with_query(token=target.tokens["eve"], clientId=str(number)),
                max_msg_size=0,
                compress=15,
            )
            for number in range(200)
        ]
        listeners = [listening.create_task(listen(socket)) for socket in sockets if reads]
        assert await show(target, text, None) == 200
        # Her sockets may hold all that a member may have by now.
        assert await show(target, f"b{text}", "0") in (200, 429)
        async with asyncio.timeout(60):
            while reads and await heard.get() < len(text):
                pass
        await asyncio.sleep(5)
        for listener in listeners:
            listener.cancel()


#: Bodies of many chunks: of another's upload, and of the attack.
CHUNKS, ONE_BYTE = b"1f4\r\n" + bytes(500) + b"\r\n", b"1\r\n \r\n"


def _upload(target: Target, member: str, name: str) -> bytes:
    return (
        f"POST /userdata/{name} HTTP/1.1\r\nHost: {target.url.authority}\r\n"
        f"Authorization: Bearer {target.tokens[member]}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()


async def _uploads(target: Target) -> AsyncIterator[float]:
    """Yield the seconds of one upload of Bob after another."""
    loop = asyncio.get_running_loop()
    for number in range(100):
        began = loop.time()
        reader, writer = await target.connect(_upload(target, "bob", f"{number}") + CHUNKS * 200)
        writer.write(b"0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        yield loop.time() - began
        writer.close()


async def test_an_upload_in_chunks_beside_chunks_of_one_byte(target: Target) -> None:
    async def send(writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(ONE_BYTE * 40_000)
                await writer.drain()

    async with target.attacked_by(MEMBER) as figures:
        opened = [await target.connect(_upload(target, "eve", "x")) for _ in range(400)]
        sending = [asyncio.create_task(send(writer)) for _, writer in opened]
        await asyncio.sleep(1)
        longest = 0.0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(8):
                async for seconds in _uploads(target):
                    longest = max(longest, seconds)
        for task in sending:
            task.cancel()
        target.let_go()
    assert 0 < longest <= figures.machine + MEMBER.wait * busy()


async def test_messages_to_thousands_of_sockets(target: Target) -> None:
    """Sockets of one member that hear all about its jobs."""
    query = f"&token={target.tokens['eve']}"
    async with target.attacked_by(MEMBER):
        await opened_sockets(target, 4000, query=query)
        for number in range(5):
            assert await show(target, f"a{number}", None) == 200
        await asyncio.sleep(5)
