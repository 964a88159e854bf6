"""The event socket: opened, watched, and opened again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from msgspec.structs import replace
from structlog.testing import capture_logs
from waiting import until
from yarl import URL

from proxy.cloud import event_socket
from proxy.cloud.connections import CloudAddresses
from proxy.cloud.event_socket import EventSocket, IdleWatchdog, Timeouts
from proxy.cloud.observer import Observer
from proxy.cloud.rejections import MAX_REJECTED
from proxy.runtime.backoff import Backoff
from proxy.translate.frames import CloudPicture
from tests.cloud.conftest import KEY, Serve, answer, redirect

QUICK = Timeouts(socket_backoff=Backoff(first=0.001, longest=0.01))


class Cloud:
    """Accepts event sockets; the test takes each from `opened`."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[web.WebSocketResponse] = asyncio.Queue()
        self.requests: list[web.Request] = []
        self.autoping = True

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        socket = web.WebSocketResponse(autoping=self.autoping)
        await socket.prepare(request)
        self.flags = await socket.receive_str()
        self.opened.put_nowait(socket)
        while not socket.closed:
            await socket.receive()
        return socket

    async def next(self) -> web.WebSocketResponse:
        return await asyncio.wait_for(self.opened.get(), 20)


class Heard:
    """What the callbacks were told, to be awaited one by one."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def observer(self, **callbacks: Callable[..., Any]) -> Observer:
        told: dict[str, Callable[..., Any]] = {
            "on_event": lambda type_, data: self.queue.put_nowait((type_, data)),
            "on_frame": self.queue.put_nowait,
            "on_up": lambda: self.queue.put_nowait("up"),
            "on_down": lambda: self.queue.put_nowait("down"),
        }
        return Observer(**{**told, **callbacks})

    async def next(self) -> Any:
        return await asyncio.wait_for(self.queue.get(), 20)


Open = Callable[..., Awaitable[tuple[EventSocket, Heard]]]


@pytest.fixture
async def open_socket(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Open]:
    monkeypatch.setattr(event_socket, "_MIN_STABLE", 0.0)
    async with AsyncExitStack() as stack:

        async def start(
            url: URL, callbacks: Mapping[str, Any] | None = None, **options: Any
        ) -> tuple[EventSocket, Heard]:
            received = Heard()
            observer = received.observer(**(callbacks or {}))
            options = {"timeouts": QUICK, **options}
            socket = EventSocket(CloudAddresses(url), KEY, observer, **options)
            stack.push_async_callback(socket.close)
            await socket.start()
            return socket, received

        yield start


async def test_the_token_is_in_the_query_and_flags_come_first(
    serve: Serve, open_socket: Open
) -> None:
    cloud = Cloud()
    server = await serve(cloud)
    socket, received = await open_socket(server.url / "gate")
    assert await socket.wait_connected(60)
    assert await received.next() == "up"
    await cloud.next()
    request = cloud.requests[0]
    assert request.path == "/gate/ws"
    assert request.query["token"] == KEY
    assert len(request.query["clientId"]) == 36
    assert "X-API-Key" not in request.headers
    assert cloud.flags == '{"type": "feature_flags", "data": {"supports_preview_metadata": true}}'


async def test_text_and_binary_arrive_in_order(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    _, received = await open_socket((await serve(cloud)).url)
    peer = await cloud.next()
    await peer.send_str('{"type":"progress","data":{"value":18446744073709551616,"x":NaN}}')
    await peer.send_bytes(b"\x00\x00\x00\x01\x00\x00\x00\x01\xff\xd8\xff")
    await peer.send_str('{"type":"other","more":1}')
    assert await received.next() == "up"
    type_, data = await received.next()
    assert (type_, data["value"]) == ("progress", 2**64)
    assert await received.next() == CloudPicture(b"\xff\xd8\xff", "image/jpeg")
    assert await received.next() == ("other", {})


async def test_nonsense_is_left_out(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    _, received = await open_socket((await serve(cloud)).url)
    peer = await cloud.next()
    for text in ("{", "[]", "null", '{"type":7}', '{"type":"a","data":[]}', '"text"'):
        await peer.send_str(text)
    await peer.send_str('{"type":"sense","data":{}}')
    assert await received.next() == "up"
    assert await received.next() == ("sense", {})


async def test_a_flood_of_nonsense_ends_the_connection_and_has_one_line_in_the_log(
    serve: Serve, open_socket: Open
) -> None:
    cloud = Cloud()
    _, received = await open_socket((await serve(cloud)).url)
    peer = await cloud.next()
    with capture_logs() as logged:
        for _ in range(MAX_REJECTED):
            await peer.send_str("{")
        assert [await received.next() for _ in range(3)] == ["up", "down", "up"]
    await (await cloud.next()).send_str('{"type":"sense","data":{}}')
    assert await received.next() == ("sense", {})
    assert [line["event"] for line in logged].count("event_rejected") == 1


async def test_a_flood_does_not_delay_the_close(serve: Serve, open_socket: Open) -> None:
    flooding = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        peer = web.WebSocketResponse()
        await peer.prepare(request)
        while not peer.closed:
            await peer.send_str('{"type":"sense","data":{}}')
            flooding.set()
        return peer

    socket, _ = await open_socket((await serve(flood)).url)
    await flooding.wait()
    async with asyncio.timeout(10):
        await socket.close()


async def test_a_key_in_an_event_is_redacted(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    _, received = await open_socket((await serve(cloud)).url)
    peer = await cloud.next()
    await peer.send_json({"type": "execution_error", "data": {"current_inputs": {"key": [KEY]}}})
    assert await received.next() == "up"
    assert await received.next() == ("execution_error", {"current_inputs": {"key": ["[REDACTED]"]}})


async def test_a_dropped_socket_is_opened_again(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    socket, received = await open_socket((await serve(cloud)).url)
    for _ in range(3):
        peer = await cloud.next()
        assert await received.next() == "up"
        assert socket.connected
        await peer.close()
        assert await received.next() == "down"
    await cloud.next()


async def test_a_reset_socket_is_opened_again(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    _, received = await open_socket((await serve(cloud)).url)
    await cloud.next()
    transport = cloud.requests[0].transport
    assert transport is not None
    transport.abort()
    assert [await received.next() for _ in range(3)] == ["up", "down", "up"]


async def test_a_stalled_socket_is_noticed_and_opened_again(
    serve: Serve, open_socket: Open
) -> None:
    cloud = Cloud()
    cloud.autoping = False
    _, received = await open_socket(
        (await serve(cloud)).url, timeouts=replace(QUICK, heartbeat=0.1)
    )
    assert [await received.next() for _ in range(3)] == ["up", "down", "up"]


async def test_a_socket_that_says_nothing_while_something_is_due_is_opened_again(
    serve: Serve, open_socket: Open
) -> None:
    cloud = Cloud()
    due = False
    _, received = await open_socket(
        (await serve(cloud)).url,
        {"due": lambda: due},
        timeouts=replace(QUICK, watchdog=lambda: IdleWatchdog(first=0.1, longest=0.1)),
    )
    assert await received.next() == "up"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(received.queue.get(), 0.3)
    due = True
    assert [await received.next() for _ in range(2)] == ["down", "up"]


@pytest.mark.parametrize("frame", [b"\xff\xff\x00", b"\x81\x7f" + b"\x7f" * 8], ids=["bad", "huge"])
async def test_a_broken_frame_reopens(serve: Serve, open_socket: Open, frame: bytes) -> None:
    cloud = Cloud()
    _, received = await open_socket((await serve(cloud)).url)
    await cloud.next()
    transport = cloud.requests[0].transport
    assert transport is not None
    transport.write(frame)
    assert [await received.next() for _ in range(3)] == ["up", "down", "up"]


async def test_a_failing_callback_ends_nothing(serve: Serve, open_socket: Open) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a bug")

    cloud = Cloud()
    _, received = await open_socket((await serve(cloud)).url, {"on_event": fail, "on_up": fail})
    peer = await cloud.next()
    await peer.send_str('{"type":"a","data":{}}')
    await peer.send_bytes(b"\0\0\0\1\0\0\0\1picture")
    assert await received.next() == CloudPicture(b"picture", "application/octet-stream")


async def test_a_failing_watchdog_ends_the_connection_and_not_the_socket(
    serve: Serve, open_socket: Open
) -> None:
    failures = iter([True])

    def due() -> bool:
        if next(failures, False):
            raise ValueError("a bug")
        return False

    _, received = await open_socket(
        (await serve(Cloud())).url,
        {"due": due},
        timeouts=replace(QUICK, watchdog=lambda: IdleWatchdog(first=0.05)),
    )
    assert await received.next() == "up"
    assert await received.next() == "down"
    assert await received.next() == "up"


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_a_refused_handshake_is_logged_and_tried_again(
    serve: Serve, open_socket: Open, status: int
) -> None:
    cloud = Cloud()
    refused = asyncio.Event()

    async def refuse(_: web.Request) -> web.StreamResponse:
        refused.set()
        return web.Response(status=status)

    server = await serve(refuse)
    socket, received = await open_socket(
        server.url, timeouts=Timeouts(socket_backoff=Backoff(first=0.2, longest=0.2))
    )
    await asyncio.wait_for(refused.wait(), 20)
    await until(lambda: socket.refused == status)
    assert not await socket.wait_connected(0.05)
    server.replies[:] = [cloud]
    assert await received.next() == "up"
    assert socket.refused is None


async def test_a_socket_whose_key_is_refused_is_not_waited_for(
    serve: Serve, open_socket: Open
) -> None:
    cloud = Cloud()

    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    server = await serve(refuse, cloud)
    socket, _ = await open_socket(
        server.url, timeouts=Timeouts(socket_backoff=Backoff(first=60, longest=60))
    )
    async with asyncio.timeout(60):
        assert not await socket.wait_connected(600)
    server.replies[:] = [cloud]
    await socket.use_key("comfyui-other")
    assert await socket.wait_connected(20)


async def test_another_key_is_tried_at_once(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    refused = asyncio.Event()

    async def refuse(_: web.Request) -> web.StreamResponse:
        refused.set()
        return web.Response(status=401)

    server = await serve(refuse, cloud)
    socket, received = await open_socket(
        server.url, timeouts=Timeouts(socket_backoff=Backoff(first=60, longest=60))
    )
    await asyncio.wait_for(refused.wait(), 20)
    await socket.use_key("comfyui-other")
    assert await received.next() == "up"
    assert cloud.requests[0].query["token"] == "comfyui-other"


async def test_a_connection_that_was_coming_about_with_the_old_key_is_not_used(
    serve: Serve, open_socket: Open
) -> None:
    cloud = Cloud()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return await cloud(request)

    socket, received = await open_socket((await serve(slowly)).url)
    await asyncio.wait_for(asked.wait(), 20)
    await socket.use_key("comfyui-other")
    go_on.set()
    assert await received.next() == "up"
    assert [request.query["token"] for request in cloud.requests] == ["comfyui-other"]


async def test_another_key_replaces_a_live_connection(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    socket, received = await open_socket(
        (await serve(cloud)).url, timeouts=Timeouts(socket_backoff=Backoff(first=60, longest=60))
    )
    await cloud.next()
    await socket.use_key("comfyui-other")
    assert [await received.next() for _ in range(3)] == ["up", "down", "up"]


async def test_another_key_opens_nothing_that_is_being_closed(
    serve: Serve, open_socket: Open
) -> None:
    for first in ("key", "close"):
        socket, received = await open_socket((await serve(Cloud())).url)
        assert await received.next() == "up"
        key, close = socket.use_key("comfyui-other"), socket.close()
        await asyncio.gather(*((key, close) if first == "key" else (close, key)))
        assert not await socket.wait_connected(0.2)


async def test_keys_that_come_together_open_one_connection(serve: Serve, open_socket: Open) -> None:
    cloud = Cloud()
    socket, received = await open_socket((await serve(cloud)).url)
    assert await received.next() == "up"
    await asyncio.gather(socket.use_key("comfyui-second"), socket.use_key("comfyui-third"))
    assert [await received.next() for _ in range(2)] == ["down", "up"]
    assert cloud.requests[-1].query["token"] == "comfyui-third"
    await socket.close()
    assert not await socket.wait_connected(0.2)


async def test_a_redirect_does_not_get_the_token(serve: Serve, open_socket: Open) -> None:
    other = await serve(answer({}))
    cloud = await serve(redirect(other.url / "ws"))
    socket, _ = await open_socket(cloud.url)
    await until(lambda: len(cloud.seen) > 1)
    assert not await socket.wait_connected(0.05)
    assert other.seen == []


async def test_nobody_there_is_tried_again_and_close_is_quick(
    open_socket: Open, unused_tcp_port: int
) -> None:
    socket, _ = await open_socket(URL(f"http://127.0.0.1:{unused_tcp_port}"))
    assert not await socket.wait_connected(0.05)
    assert socket.refused is None
    async with asyncio.timeout(60):
        await socket.close()


async def test_a_cloud_that_answers_calls_again_is_tried_at_once(
    serve: Serve, open_socket: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_socket, "_MIN_STABLE", 600.0)
    cloud, refused, recovery = Cloud(), asyncio.Event(), asyncio.Event()

    async def refuse(_: web.Request) -> web.StreamResponse:
        refused.set()
        return web.Response(status=503)

    patient = Timeouts(socket_backoff=Backoff(0.01, 600.0, factor=1e6))
    address = (await serve(refuse, refuse, cloud)).url
    socket, _ = await open_socket(address, timeouts=patient, recovery=lambda: recovery)
    await refused.wait()
    assert not await socket.wait_connected(0.2)
    recovery.set()
    await cloud.next()


async def test_after_a_wait_in_vain_the_next_does_not_wait_again(
    open_socket: Open, unused_tcp_port: int
) -> None:
    socket, _ = await open_socket(URL(f"http://127.0.0.1:{unused_tcp_port}"))
    assert not await socket.wait_connected(0.05)
    async with asyncio.timeout(60):
        assert not await socket.wait_connected(600)


async def test_close_ends_the_connection_and_start_opens_another(
    serve: Serve, open_socket: Open
) -> None:
    cloud = Cloud()
    socket, received = await open_socket((await serve(cloud)).url)
    peer = await cloud.next()
    await socket.close()
    assert not socket.connected
    assert (await peer.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
    await socket.start()
    await cloud.next()
    assert [await received.next(), await received.next()] == ["up", "up"]


async def test_the_token_is_not_logged(
    serve: Serve,
    open_socket: Open,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    server = await serve(answer({}, 401))
    socket, _ = await open_socket(server.url)
    await until(lambda: socket.refused == 401)
    await socket.close()
    out, err = capsys.readouterr()
    assert "event_socket_refused" in out
    assert KEY not in out + err + caplog.text


@pytest.fixture
def silence() -> IdleWatchdog:
    silence = IdleWatchdog(first=10.0, longest=30.0)
    silence.begin(0.0)
    return silence


def test_a_message_begins_the_silence_anew(silence: IdleWatchdog) -> None:
    silence.received(9.0, "progress")
    assert not silence.is_over(18.0)
    assert silence.is_over(19.0)


def test_each_silent_connection_may_be_silent_for_longer(silence: IdleWatchdog) -> None:
    now = 0.0
    for bound in (10.0, 20.0, 30.0, 30.0):
        silence.begin(now)
        assert not silence.is_over(now + bound - 0.1)
        assert silence.is_over(now + bound)
        now += bound


@pytest.mark.parametrize("greeting", ["status", "feature_flags"])
def test_a_greeting_proves_nothing(silence: IdleWatchdog, greeting: str) -> None:
    assert silence.is_over(10.0)
    silence.begin(10.0)
    silence.received(10.0, greeting)
    assert not silence.is_over(29.0)


def test_an_event_makes_the_next_silence_short_again(silence: IdleWatchdog) -> None:
    assert silence.is_over(10.0)
    silence.begin(10.0)
    silence.received(10.0, "executing")
    assert silence.is_over(20.0)
