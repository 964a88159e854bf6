"""A client that does not read: nobody waits for it, it costs little, and it may come back."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import aiohttp
import gated
import pytest
from stack import Client, Proxy, running_proxy

from proxy.api import websocket as client_socket
from proxy.api.keys import JOBS
from proxy.api.send_queue import SendQueue
from proxy.simulator import Simulator
from proxy.translate.events import Event, Preview

MEBIBYTE = 1024 * 1024


def preview(number: int, size: int) -> Preview:
    return Preview(
        prompt_id="p",
        node_id="1",
        display_node_id="1",
        parent_node_id=None,
        real_node_id="1",
        image=b"\xff\xd8\xff" + number.to_bytes(4, "big") + bytes(size),
        image_type="image/jpeg",
        leads=False,
    )


async def deaf(client: Client, name: str) -> aiohttp.ClientWebSocketResponse:
    """A socket of which only the first message is read."""
    socket = await client.session.ws_connect((client.url / "ws").with_query(clientId=name))
    await socket.receive()
    return socket


async def told(proxy: Proxy, name: str, message: Any) -> None:
    proxy.services[JOBS].subscribers.publish("local", name, message)
    await asyncio.sleep(0)


async def test_previews_for_a_client_that_does_not_read_take_no_memory(
    client: Client, proxy: Proxy
) -> None:
    socket = await deaf(client, "deaf")
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(600):
        await told(proxy, "deaf", preview(number, MEBIBYTE // 4))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 8 * MEBIBYTE
    newest = b""
    async with asyncio.timeout(60):
        while newest[11:15] != (599).to_bytes(4, "big"):
            newest = (await socket.receive()).data
    await socket.close()


async def test_a_client_that_does_not_read_stops_nobody_and_goes_on_when_it_comes_back(
    tmp_path: Path, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        client_socket, "SendQueue", lambda **how: SendQueue(max_bytes=MEBIBYTE, **how)
    )
    opened = asyncio.Event()
    async with (
        Simulator(plan="creator", extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, tmp_path) as proxy,
    ):
        slow, quick = Client(session, proxy.url, "slow"), Client(session, proxy.url, "quick")
        socket = await deaf(slow, "slow")
        prompt_id = await slow.submit(gated.GRAPH)
        async with quick.listening() as listener:
            large = Event("executed", {"prompt_id": "p", "output": "x" * 100_000})
            for _ in range(400):
                await told(proxy, "slow", large)
            other = await quick.submit({**gated.GRAPH})
            await listener.until("executing", node="1", prompt_id=other)
        async with asyncio.timeout(60):
            while (message := await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1013)
        url = (proxy.url / "ws").with_query(clientId="slow")
        async with session.ws_connect(url) as again:
            assert (await again.receive_json())["data"]["sid"] == "slow"
            assert await again.receive_json() == {"type": "executing", "data": {"node": "1"}}
            opened.set()
            async with asyncio.timeout(60):
                while (await again.receive_json())["data"] != {
                    "node": None,
                    "prompt_id": prompt_id,
                }:
                    pass
        assert (await slow.history(prompt_id))["status"]["completed"]


async def test_a_silent_socket_gets_pings(
    simulator: Simulator,
    tmp_path: Path,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_socket, "PING_INTERVAL", 0.05)
    async with running_proxy(simulator, tmp_path) as proxy:
        socket = await session.ws_connect(proxy.url / "ws", autoping=False)
        await socket.receive()
        for _ in range(3):
            async with asyncio.timeout(60):
                assert (await socket.receive()).type is aiohttp.WSMsgType.PING
        assert not socket.closed, "nobody has answered, and the socket lives"
        await socket.close()
