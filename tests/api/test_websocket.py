"""What a client receives on its websocket, and how many clients get `status`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from proxy.api import websocket as client_socket
from proxy.api.send_queue import SendQueue
from proxy.api.websocket import SOCKETS, FrameCache, Sockets
from proxy.edge.connections import GOING_AWAY
from proxy.runtime.supervisor import Supervisor
from proxy.translate.events import Event, NodeText, Preview, status

Client = TestClient[Any, Any]
Socket = aiohttp.ClientWebSocketResponse

FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
ANSWER = {
    "supports_preview_metadata": True,
    "supports_model_type_tags": True,
    "max_upload_size": 104857600,
    "extension": {"manager": {"supports_v4": True}},
    "node_replacements": True,
    "assets": True,
    "partner_run_gate_enabled": False,
}


def preview(image: bytes = b"\xff\xd8\xff", *, leads: bool = False) -> Preview:
    return Preview(
        prompt_id="p",
        node_id="1.0",
        display_node_id="1",
        parent_node_id=None,
        real_node_id="1",
        image=image,
        image_type="image/jpeg",
        leads=leads,
    )


async def connect(client: Client, sid: str = "aaa", path: str = "/ws") -> Socket:
    """A socket that has read its first `status`."""
    socket = await client.ws_connect(f"{path}?clientId={sid}")
    assert (await socket.receive_json())["data"]["sid"] == sid
    return socket


@pytest.mark.parametrize("path", ["/ws", "/api/ws"])
@pytest.mark.parametrize("sid", ["aaa", "a%20b%2F%E4%B8%96", "x" * 500])
async def test_the_first_message_is_the_status_with_the_sid(
    client: Client, room_of_jobs: Any, path: str, sid: str
) -> None:
    room_of_jobs.remaining = 3
    socket = await client.ws_connect(f"{path}?clientId={sid}")
    message = await socket.receive_str()
    assert message.startswith('{"type": "status", "data": {"status": {"exec_info": ')
    data = json.loads(message)["data"]
    assert data["status"] == {"exec_info": {"queue_remaining": 3}}
    assert data["sid"] == sid.replace("%20", " ").replace("%2F", "/").replace("%E4%B8%96", "世")


@pytest.mark.parametrize("path", ["/ws", "/ws?clientId="])
async def test_without_a_client_id_the_server_makes_one(client: Client, path: str) -> None:
    socket = await client.ws_connect(path)
    sid = (await socket.receive_json())["data"]["sid"]
    assert (len(sid), set(sid) <= set("0123456789abcdef")) == (32, True)


async def test_who_comes_back_in_mid_run_hears_which_node_runs(
    client: Client, room_of_jobs: Any
) -> None:
    room_of_jobs.node = "1"
    socket = await connect(client)
    assert await socket.receive_json() == {"type": "executing", "data": {"node": "1"}}


async def test_messages_come_in_their_order(client: Client, room_of_jobs: Any) -> None:
    socket = await connect(client)
    for message in (
        Event("executing", {"node": "1", "prompt_id": "p"}),
        preview(),
        NodeText("1", "half"),
        status(0),
    ):
        room_of_jobs.subscribers.publish("local", "aaa", message)
    assert (await socket.receive_json())["type"] == "executing"
    assert await socket.receive_bytes() == bytes.fromhex("00000001 00000001 ffd8ff")
    assert await socket.receive_bytes() == bytes.fromhex("00000003 00000001 31") + b"half"
    assert (await socket.receive_json())["type"] == "status"


async def test_a_socket_that_asked_gets_previews_with_metadata(
    client: Client, room_of_jobs: Any
) -> None:
    socket = await connect(client)
    await socket.send_json(FLAGS)
    assert await socket.receive_json() == {"type": "feature_flags", "data": ANSWER}
    room_of_jobs.subscribers.publish("local", "aaa", preview(leads=True))
    frame = await socket.receive_bytes()
    length = int.from_bytes(frame[4:8], "big")
    assert frame[:4] == bytes.fromhex("00000004")
    assert json.loads(frame[8 : 8 + length]) == {
        "node_id": "1.0",
        "prompt_id": "p",
        "display_node_id": "1",
        "parent_node_id": None,
        "real_node_id": "1",
        "image_type": "image/jpeg",
    }
    assert frame[8 + length :] == b"\xff\xd8\xff"


async def test_a_preview_of_nobodys_job_is_plain_for_all(client: Client, room_of_jobs: Any) -> None:
    socket = await connect(client)
    await socket.send_json(FLAGS)
    await socket.receive_json()
    room_of_jobs.subscribers.publish("local", None, preview())
    assert (await socket.receive_bytes())[:4] == bytes.fromhex("00000001")


@pytest.mark.parametrize(
    ("messages", "answered"),
    [
        ([FLAGS], True),
        ([{"type": "feature_flags"}], True),
        ([{"type": "feature_flags", "data": None}], True),
        ([{"type": "feature_flags", "data": ["x"]}], True),
        (["{bad", FLAGS], False),
        (["[1]", FLAGS], False),
        ([b'{"type": "feature_flags"}', FLAGS], True),
        ([{"type": "hello"}, FLAGS], False),
        ([{}, FLAGS], False),
    ],
)
async def test_only_the_first_text_counts_as_flags(
    client: Client, room_of_jobs: Any, messages: list[Any], answered: bool
) -> None:
    socket = await connect(client)
    for message in messages:
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_str(message if isinstance(message, str) else json.dumps(message))
    await socket.ping()
    if answered:
        assert (await socket.receive_json())["type"] == "feature_flags"
    room_of_jobs.subscribers.broadcast("local", status(5))
    assert (await socket.receive_json())["type"] == "status"


async def test_flags_are_answered_once(client: Client, room_of_jobs: Any) -> None:
    socket = await connect(client)
    await socket.send_json(FLAGS)
    await socket.send_json({"type": "feature_flags", "data": {}})
    assert (await socket.receive_json())["type"] == "feature_flags"
    room_of_jobs.subscribers.publish("local", "aaa", preview(leads=True))
    assert (await socket.receive_bytes())[:4] == bytes.fromhex("00000004")


async def test_the_newer_socket_of_an_id_hears_all_and_outlives_the_older(
    client: Client, room_of_jobs: Any
) -> None:
    older = await connect(client)
    newer = await connect(client)
    room_of_jobs.subscribers.publish("local", "aaa", status(1))
    room_of_jobs.subscribers.broadcast("local", status(2))
    assert [await newer.receive_json() for _ in range(2)] == [
        json.loads(status(1).text),
        json.loads(status(2).text),
    ]
    with pytest.raises(asyncio.TimeoutError):
        await older.receive(timeout=0.05)
    await older.close()
    room_of_jobs.subscribers.publish("local", "aaa", status(3))
    assert await newer.receive_json() == json.loads(status(3).text)


async def test_a_socket_that_closed_is_forgotten(client: Client, room_of_jobs: Any) -> None:
    socket = await connect(client)
    await socket.close()
    newcomer = await connect(client, "bbb")
    room_of_jobs.subscribers.publish("local", "aaa", status(1))
    room_of_jobs.subscribers.broadcast("local", status(2))
    assert await newcomer.receive_json() == json.loads(status(2).text)


@pytest.mark.parametrize("code", [1000, 1001, 4001])
async def test_every_close_is_answered_with_1000(client: Client, code: int) -> None:
    reader, writer = await raw_socket(client)
    writer.write(b"\x88\x82\0\0\0\0" + code.to_bytes(2, "big"))
    answer = await reader.readexactly(4)
    assert answer == b"\x88\x02" + (1000).to_bytes(2, "big")
    writer.close()


async def raw_socket(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A bare connection behind the handshake and the first message."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"GET /ws?clientId=raw HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    head = await reader.readexactly(2)
    await reader.readexactly(head[1])
    return reader, writer


@pytest.mark.parametrize(("length", "code"), [(4 * 1024 * 1024 + 1, 1009), (125, None)])
async def test_a_message_over_4_mib_closes_with_1009(
    client: Client, length: int, code: int | None
) -> None:
    reader, writer = await raw_socket(client)
    if code is None:
        writer.write(b"\x81\xfd\0\0\0\0" + b"x" * length + b"\x89\x80\0\0\0\0")
        assert await reader.readexactly(2) == b"\x8a\x00"
    else:
        writer.write(b"\x81\xff" + length.to_bytes(8, "big") + b"\0\0\0\0")
        answer = await reader.readexactly(4)
        assert (answer[:1], int.from_bytes(answer[2:], "big")) == (b"\x88", code)
    writer.close()


async def test_a_ping_is_answered(client: Client) -> None:
    socket = await client.ws_connect("/ws?clientId=a", autoping=False)
    await socket.receive_json()
    await socket.ping(b"payload")
    pong = await socket.receive()
    assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"payload")


async def test_compression_is_not_accepted(client: Client) -> None:
    socket = await client.ws_connect("/ws?clientId=a", compress=15)
    assert not socket.compress
    assert (await socket.receive_json())["type"] == "status"


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, 'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".'),
        (
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "12",
                "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            },
            "Unsupported version: 12",
        ),
        (
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "short",
            },
            "Handshake error: 'short'",
        ),
    ],
)
async def test_a_bad_handshake_is_400_in_text(
    client: Client, headers: dict[str, str], text: str
) -> None:
    response = await client.get("/ws", headers=headers)
    assert (response.status, await response.text()) == (400, text)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


async def test_head_of_the_websocket_is_400(client: Client) -> None:
    assert (await client.head("/ws")).status == 400


async def test_a_client_that_does_not_read_hinders_nobody_and_is_cut_off(
    client: Client, room_of_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "SendQueue", partial(SendQueue, max_bytes=1024 * 1024))
    monkeypatch.setattr(client_socket, "CLOSE_TIMEOUT", 0.05)
    reader, writer = await raw_socket(client)
    writer.transport.pause_reading()
    other = await connect(client)
    large = Event("executed", {"prompt_id": "p", "output": "x" * 100_000})
    for _ in range(200):
        room_of_jobs.subscribers.publish("local", "raw", large)
        await asyncio.sleep(0)
    room_of_jobs.subscribers.publish("local", "aaa", status(1))
    assert await other.receive_json() == json.loads(status(1).text)
    writer.transport.resume_reading()
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass
    writer.close()


async def test_a_message_that_comes_while_a_ping_waits_for_a_slow_client_is_sent_after_it(
    client: Client, room_of_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_ping, begun, going_on = web.WebSocketResponse.ping, asyncio.Event(), asyncio.Event()

    async def slow(socket: web.WebSocketResponse) -> None:
        begun.set()
        await going_on.wait()
        await send_ping(socket)

    monkeypatch.setattr(web.WebSocketResponse, "ping", slow)
    socket = await connect(client)
    (ours,) = client.app[SOCKETS].open
    async with asyncio.timeout(15.0):  # before the next ping
        while not begun.is_set():
            ours.ping_if_silent(math.inf)
            await asyncio.sleep(0)
        room_of_jobs.subscribers.publish("local", "aaa", status(1))
        going_on.set()
        assert await socket.receive_json() == json.loads(status(1).text)


async def test_a_client_that_reads_too_slowly_gets_close_code_1013(
    client: Client, room_of_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "SendQueue", partial(SendQueue, max_bytes=1000))
    socket = await connect(client)
    for _ in range(10):
        room_of_jobs.subscribers.publish("local", "aaa", status(1))
    while not socket.closed:
        message = await socket.receive()
    assert (message.type, socket.close_code) == (aiohttp.WSMsgType.CLOSE, 1013)


async def test_when_the_server_goes_it_says_so(client: Client) -> None:
    socket = await connect(client)
    waiting = asyncio.create_task(socket.receive())
    await client.server.close()
    assert (await waiting).type is aiohttp.WSMsgType.CLOSE
    assert socket.close_code == 1001


class Leaver:
    """A socket that is told to go."""

    writing = None

    def leave(self, code: int, reason: str) -> asyncio.Task[None]:
        self.goodbye = (code, reason)
        return asyncio.create_task(asyncio.sleep(0))


async def test_all_get_a_close_frame() -> None:
    room, leavers = Sockets(Supervisor()), [Leaver() for _ in range(3)]
    for leaver in leavers:
        room.join(leaver)
    await room.close(1001)
    assert [leaver.goodbye for leaver in leavers] == [(1001, GOING_AWAY)] * 3
    await Sockets(Supervisor()).close(1001)  # nobody is there


def test_the_frame_of_a_preview_is_made_once_for_all_sockets() -> None:
    message, cache = preview(), FrameCache()
    frames = [cache.frame(message, metadata=number % 2 == 0) for number in range(4)]
    assert frames[0] is frames[2]
    assert frames[1] is frames[3]
    assert frames[0] != frames[1]
