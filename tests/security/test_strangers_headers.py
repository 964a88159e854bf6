"""A stranger attacks with headers that take long to parse."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from security.attack import STRANGER, Target
from security.conftest import Start

import proxy

PACKAGE = Path(proxy.__file__).parent
#: Maximum characters of a header.
SIZE = 16_000


async def ask(target: Target, head: str, *, connections: int = 1) -> set[bytes]:
    """Send the same request on some connections at once; the first lines of the answers."""
    request = head.encode()
    opened = [await target.connect(source="127.0.0.2") for _ in range(connections)]
    for _, writer in opened:
        writer.write(request)
    async with asyncio.timeout(60):
        return {await reader.readline() for reader, _ in opened}


@pytest.mark.parametrize(
    "parameters",
    ['"' * SIZE, '";' * (SIZE // 2), "a;" * (SIZE // 2), "a*=utf-8''%41;" * 1000, "(" * SIZE],
    ids=["quotes", "open quotes", "names", "charsets", "comments"],
)
async def test_types_of_bodies(target: Target, parameters: str) -> None:
    head = (
        "POST /proxy/sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n"
        f"Content-Type: application/json;{parameters}\r\n\r\ntoken=a"
    )
    async with target.attacked_by(STRANGER):
        assert await ask(target, head) == {b"HTTP/1.1 415 Unsupported Media Type\r\n"}


@pytest.mark.parametrize("room", ["admin", "api", "cloud", "packs", "sign_in", "webhooks"])
def test_nothing_reads_these_headers_by_the_properties_of_aiohttp(room: str) -> None:
    """They take time that grows with the square of the header."""
    slow = re.compile(r"\b(?:request|response)\.(?:charset|content_type|cookies)\b")
    modules = {path.name: path.read_text() for path in (PACKAGE / room).rglob("*.py")}
    assert [name for name, source in modules.items() if slow.search(source)] == []


async def test_cookies(target: Target) -> None:
    head = f"GET /queue HTTP/1.1\r\nHost: x\r\nCookie: {'a=b;' * (SIZE // 4)}\r\n\r\n"
    async with target.attacked_by(STRANGER):
        answers = await ask(target, head, connections=120)
    assert answers == {b"HTTP/1.1 401 Unauthorized\r\n"}


async def test_a_path_that_begins_like_a_secret(target: Target) -> None:
    """It is in the log, from which secrets are removed."""
    async with target.attacked_by(STRANGER):
        answers = await ask(target, f"GET /{'a.' * 4_000} HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answers == {b"HTTP/1.1 401 Unauthorized\r\n"}


async def test_names_of_the_server(start: Start) -> None:
    head = f"GET /queue HTTP/1.1\r\nHost: {'a.' * (SIZE // 2)}example\r\n\r\n"
    options = ("--allowed-hosts", "*.team.example")
    async with start(*options, members=False) as target, target.attacked_by(STRANGER):
        assert await ask(target, head) == {b"HTTP/1.1 403 Forbidden\r\n"}
