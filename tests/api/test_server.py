"""The server as a whole: how it ends, and its certificate."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from certificates import certify, fingerprint
from process import serving
from quiet import logging_restored
from stack import TIMEOUT
from waiting import until
from wire import HEAD, POST, rest

from proxy.cli import main
from proxy.edge.tls import Certificate, CertificateError

#: A time to stop, in seconds, that is longer than the tests wait for an end.
NEVER = 3600


async def test_stopping_waits_for_an_answer_under_way(running: Any) -> None:
    async with running(stop_timeout=20) as server:
        reader, _ = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        stopping = asyncio.create_task(server.stop())
        async with asyncio.timeout(60):
            while not await server.refuses():
                pass
        assert not stopping.done()
        server.go.set()
        assert (await rest(reader)).startswith(b"HTTP/1.1 200 OK")
        await stopping


async def test_stopping_waits_for_the_handler_of_a_lost_connection(running: Any) -> None:
    async with running(stop_timeout=60) as server:
        _, writer = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        writer.transport.abort()
        await until(lambda: not server.server.connections)
        stopping = asyncio.create_task(server.stop())
        ended, _ = await asyncio.wait([stopping], timeout=1.0)  # aiohttp gives up after 0.2 s
        assert not ended
        server.go.set()
        await stopping


async def test_a_connection_ends_with_its_answer_while_the_server_stops(
    running: Any, room_of_jobs: Any
) -> None:
    asked, answers = asyncio.Event(), asyncio.Event()

    async def queue_json(_: str) -> bytes:
        asked.set()
        await answers.wait()
        return b"{}"

    room_of_jobs.queue_json = queue_json
    async with running(stop_timeout=20) as server:
        reader, _ = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        other, _ = await server.connect(HEAD + b"\r\n")
        await asked.wait()
        idle, _ = await server.connect()
        await until(lambda: len(server.server.connections) == 3)
        stopping = asyncio.create_task(server.stop())
        async with asyncio.timeout(60):
            while not await server.refuses():
                pass
        assert await rest(idle) == b""
        answers.set()
        assert (await rest(other)).startswith(b"HTTP/1.1 200 OK")
        assert not stopping.done()
        server.go.set()
        assert (await rest(reader)).startswith(b"HTTP/1.1 200 OK")
        await stopping


async def test_an_answer_that_takes_too_long_becomes_503(running: Any) -> None:
    async with running(stop_timeout=1) as server:
        reader, _ = await server.connect(POST.replace(b"100000", b"14") + b'{"prompt": {}}')
        await server.began.wait()
        await server.stop()
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "stopping"


async def test_idle_and_lingering_connections_do_not_hold_the_stop(running: Any) -> None:
    async with running(stop_timeout=NEVER) as server:
        idle, _ = await server.connect(HEAD + b"\r\n")
        await idle.readuntil(b"}")
        too_large = POST.replace(b"100000", b"%d" % (10**9))
        lingering, _ = await server.connect(too_large + b"x" * 100)
        await lingering.readuntil(b"\r\n\r\n")
        unfinished, _ = await server.connect(HEAD)
        async with asyncio.timeout(TIMEOUT):
            await server.stop()
        for reader in (idle, lingering, unfinished):
            await rest(reader)


async def test_a_download_that_takes_too_long_is_cut(
    running: Any, room_of_files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room_of_files.add("a.bin", bytes(30_000_000))
    async with running(stop_timeout=0.4) as server:
        reader, _ = await server.connect(
            b"GET /view?filename=a.bin&type=output HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        await server.stop()
        assert len(await rest(reader)) < 30_000_000


async def test_websockets_are_closed_with_1001_and_a_reason(running: Any) -> None:
    async with (
        running() as server,
        aiohttp.ClientSession() as session,
        session.ws_connect(server.url / "ws") as socket,
    ):
        await socket.receive()
        stopping = asyncio.create_task(server.stop())
        message = await socket.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert (message.data, message.extra) == (1001, "The proxy is stopping.")
        await stopping


async def test_a_websocket_that_does_not_read_does_not_hold_the_stop(running: Any) -> None:
    async with running(stop_timeout=1) as server:
        reader, writer = await server.connect(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()
        async with asyncio.timeout(TIMEOUT):
            await server.stop()


async def test_it_serves_https_and_wss(tmp_path: Path) -> None:
    cert, key = await asyncio.to_thread(certify, tmp_path, "one")
    options = ("--simulate", "--tls-cert", str(cert), "--tls-key", str(key))
    trusting = ssl.create_default_context(cafile=str(cert))
    async with (
        serving(tmp_path / "data", *options) as server,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session,
    ):
        assert server.url.scheme == "https"
        async with session.get(server.url / "queue") as answer:
            assert answer.status == 200
        async with session.ws_connect(server.url / "ws") as socket:
            assert (await socket.receive_json(timeout=TIMEOUT))["type"] == "status"
        assert await server.stop() == 0


async def test_a_changed_certificate_is_taken_up_without_closing_anything(tmp_path: Path) -> None:
    cert, key = await asyncio.to_thread(certify, tmp_path, "one")
    other_cert, other_key = await asyncio.to_thread(certify, tmp_path, "two")
    certificate = Certificate(cert, key, interval=0.02)

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate.context)
    await site.start()
    port = runner.addresses[0][1]
    url = f"https://127.0.0.1:{port}/"
    following = asyncio.create_task(certificate.follow())
    marks = await asyncio.to_thread(lambda: (fingerprint(cert), fingerprint(other_cert)))
    old, new = map(aiohttp.Fingerprint, marks)
    try:
        async with aiohttp.ClientSession() as kept, aiohttp.ClientSession() as later:
            async with kept.get(url, ssl=old) as answer:
                assert answer.status == 200
            await asyncio.to_thread(shutil.copy, other_cert, cert)  # does not fit its key yet
            await asyncio.sleep(0.1)
            async with later.get(url, ssl=old, headers={"Connection": "close"}):
                pass
            await asyncio.to_thread(shutil.copy, other_key, key)
            async with asyncio.timeout(TIMEOUT):
                while True:
                    try:
                        async with later.get(url, ssl=new):
                            break
                    except aiohttp.ServerFingerprintMismatch:
                        await asyncio.sleep(0.02)
            async with kept.get(url, ssl=old) as answer:
                assert answer.status == 200
    finally:
        following.cancel()
        await runner.cleanup()


def test_wrong_files_are_an_error_of_one_sentence(tmp_path: Path) -> None:
    cert, key = certify(tmp_path, "one")
    _, other = certify(tmp_path, "two")
    with pytest.raises(CertificateError, match="are not a certificate and its private key"):
        Certificate(cert, other)
    with pytest.raises(CertificateError, match="cannot be read"):
        Certificate(tmp_path / "none.pem", key)


@pytest.mark.parametrize("given", [("--tls-cert",), ("--tls-cert", "--tls-key")])
def test_wrong_files_end_the_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...]
) -> None:
    options = [part for name in given for part in (name, str(tmp_path / "none.pem"))]
    with logging_restored(), pytest.raises(SystemExit) as end:
        main(["serve", "--simulate", "--data-dir", str(tmp_path), *options])
    assert end.value.code == 2
    assert "tls_" in capsys.readouterr().err
