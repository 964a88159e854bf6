"""Strangers and members whose request lines take long to look at."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from security.attack import MEMBER, STRANGER, Target
from security.conftest import Start

#: Bytes of a request line; more are refused by the parser.
SIZE = 8100
TARGETS = {
    "parameters": "/queue?token=x&" + "a&" * (SIZE // 2),
    "dots": "/t/x/" + "../" * (SIZE // 3),
    "percents": "/" + "%25" * (SIZE // 3),
    "segments": "/assets/" + "a/" * (SIZE // 2),
}


def requests(targets: list[str], header: str = "") -> bytes:
    return "".join(
        f"GET {target} HTTP/1.1\r\nHost: x\r\n{header}\r\n" for target in targets
    ).encode()


async def flood(target: Target, sent: bytes, *, connections: int, seconds: float = 4.0) -> None:
    """Send the same on connections of four addresses at once, again and again."""

    async def send(number: int) -> None:
        with contextlib.suppress(OSError):
            reader, writer = await target.connect(sent, source=f"127.0.0.{number % 4 + 2}")
            while await reader.read(65536):
                writer.write(sent)
                await writer.drain()

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.gather(*map(send, range(connections)))


@pytest.mark.parametrize("kind", TARGETS)
async def test_long_request_lines(target: Target, kind: str) -> None:
    async with target.attacked_by(STRANGER):
        await flood(target, requests([TARGETS[kind]]), connections=300)


async def test_long_request_lines_with_pages_of_other_origins(start: Start) -> None:
    origins = ("--cors-origins", "https://pages.example")
    async with start(*origins) as target, target.attacked_by(STRANGER):
        await flood(target, requests([TARGETS["segments"]]), connections=300)


@pytest.mark.parametrize("kind", TARGETS)
async def test_long_request_lines_of_a_member(target: Target, kind: str) -> None:
    header = f"Authorization: {target.bearer()['Authorization']}\r\n"
    async with target.attacked_by(MEMBER):
        await flood(target, requests([TARGETS[kind]], header), connections=300)


async def test_refusals_of_a_stranger_fill_no_log(target: Target) -> None:
    sent = requests(["/queue", "/history", "/view?filename=a.png"] * 20)
    before = sum(map(len, target.process.said))
    async with target.attacked_by(STRANGER):
        await flood(target, sent, connections=20)
    assert sum(map(len, target.process.said)) - before < 50_000
