"""Attacks by strangers with connections: many, silent, unfinished and unread ones."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from pathlib import Path

import pytest
from security.attack import STRANGER, Target
from security.conftest import Start
from servers import program

FORM = b"POST /proxy/sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ntoken="
HEAD = b"GET /proxy/sign-in HTTP/1.1\r\nHost: x\r\n"


#: Members must be served sooner than the attack ends.
SOON = STRANGER._replace(served=3.0)


async def hold(target: Target, sent: bytes, count: int, *sources: str) -> None:
    """Open connections of each source, send these bytes, and read nothing."""
    for source in sources or ("127.0.0.1",):
        for _ in range(count):
            await target.connect(sent, source=source)


async def test_half_sent_sign_in_forms(start: Start) -> None:
    async with start("--max-connections", "50") as target, target.attacked_by(SOON):
        await hold(target, FORM, 60)
        await asyncio.sleep(4)


async def test_half_sent_sign_in_forms_of_several_addresses(start: Start) -> None:
    sources = [f"127.0.0.{number}" for number in range(2, 6)]
    async with start("--max-connections", "400") as target, target.attacked_by(SOON):
        await hold(target, FORM, 80, *sources)
        await asyncio.sleep(4)


async def test_unread_pages(start: Start) -> None:
    pages = (HEAD + b"\r\n") * 500
    async with start("--max-connections", "50") as target, target.attacked_by(SOON):
        await hold(target, pages, 60)
        await asyncio.sleep(4)


async def test_a_stream_of_new_connections(start: Start) -> None:
    async with start("--max-connections", "100") as target, target.attacked_by(STRANGER):
        end = asyncio.get_running_loop().time() + 3
        while asyncio.get_running_loop().time() < end:
            await hold(target, FORM, 10, "127.0.0.2")
            await asyncio.sleep(0.02)
            target.let_go()


async def test_unfinished_headers(target: Target) -> None:
    head = HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 16_000) for number in range(100))
    async with target.attacked_by(STRANGER) as figures:
        await hold(target, head, 200, "127.0.0.2")
        await asyncio.sleep(2)
    assert figures.growth < 120


async def test_unfinished_trailers(target: Target) -> None:
    start = b"POST /proxy/sign-in HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    trailers = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 16_000) for number in range(100))
    async with target.attacked_by(STRANGER) as figures:
        await hold(target, start + trailers, 200, "127.0.0.2")
        await asyncio.sleep(2)
    assert figures.growth < 120


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, ...]:
    """The options of a server with a certificate of its own."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [program("openssl", package="OpenSSL"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
               "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-keyout", str(key), "-out", str(cert)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return ("--tls-cert", str(cert), "--tls-key", str(key))


async def test_silent_tls_connections(start: Start, certificate: tuple[str, ...]) -> None:
    options = ("--max-connections", "400", *certificate)
    async with start(*options) as target, target.attacked_by(STRANGER):
        before = descriptors(target)
        await hold(target, b"", 1500, "127.0.0.2")
        await asyncio.sleep(1)
        assert descriptors(target) - before < 100


async def test_unfinished_handshakes(start: Start, certificate: tuple[str, ...]) -> None:
    options = ("--max-connections", "50", *certificate)
    async with start(*options) as target, target.attacked_by(STRANGER):
        await hold(target, b"\x16\x03\x01\x02\x00\x01\x00", 200)
        await asyncio.sleep(2)


async def test_a_handshake_has_ten_seconds(start: Start, certificate: tuple[str, ...]) -> None:
    async with start(*certificate) as target:
        reader, _ = await target.connect()
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""


def descriptors(target: Target) -> int:
    """The open files of the proxy."""
    return len(list(Path(f"/proc/{target.process.process.pid}/fd").iterdir()))
