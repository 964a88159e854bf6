"""A member gives up what it has begun, again and again: nothing of it stays in memory.

An error that a stream keeps, and whose frames keep the stream, is a cycle: what the handler has
read would stay until a late collection, though the member's budget is free again.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import graphs
import pytest
from security.attack import MEMBER, Target
from team import Team, bearer, running_team
from waiting import until

from proxy.api.keys import BUDGET
from proxy.simulator import Simulator

MB = 1024 * 1024
#: Bytes that may be in cycles after a request: those of a connection without its data.
SMALL = 100_000


def request(line: str, token: str, body: bytes = b"", *headers: str, missing: int = 0) -> bytes:
    """A request, of whose body some bytes are still missing."""
    length = f"Content-Length: {len(body) + missing}"
    head = [f"{line} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", length, *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


async def test_unfinished_bodies_again_and_again(target: Target) -> None:
    body = b"x" * (10 * MB)
    sent = request("POST /queue", target.tokens["eve"], body, missing=1)
    async with target.attacked_by(MEMBER):
        for _ in range(7):
            for _ in range(10):
                _, writer = await target.connect(sent)
                with suppress(ConnectionError, TimeoutError):
                    async with asyncio.timeout(2):
                        await writer.drain()
            await asyncio.sleep(0.3)
            target.let_go()


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    """A proxy whose Bob has a large file and a large job."""
    graph = graphs.plain()
    next(iter(graph.values()))["_meta"] = {"title": "x" * 6 * MB}
    job = json.dumps({"prompt": graph}).encode()
    async with (
        running_team(simulator, tmp_path / "data") as running,
        aiohttp.ClientSession(headers=bearer(running.bob)) as session,
    ):
        for path, body in (("userdata/large", bytes(30 * MB)), ("prompt", job)):
            async with session.post(running.url / path, data=io.BytesIO(body)) as answer:
                assert answer.status == 200
        async with asyncio.timeout(60):
            while True:
                async with session.get(running.url / "queue") as answer:
                    if not any((await answer.json()).values()):
                        break
        yield running


FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + bytes(MB // 2)
TYPE = "Content-Type: multipart/form-data; boundary=b"
PACKED = gzip.compress(b'{"a": "' + b"x" * 3 * MB)[:-8]
TEXT = b'{"a": "' + b"x" * 3 * MB


@pytest.mark.parametrize(
    ("line", "body", "headers", "missing"),
    [
        ("POST /queue", TEXT, (), 2),
        ("POST /queue", PACKED, ("Content-Encoding: gzip",), 8),
        ("POST /queue", TEXT, (), 0),  # it is complete and not JSON
        ("POST /upload/image", FORM, (TYPE,), 9),
        ("PUT /api/etn/image/a", TEXT, (), 2),
        ("GET /userdata/large", b"", (), 0),
        ("GET /history", b"", (), 0),
    ],
    ids=["unfinished", "packed", "not JSON", "form", "picture", "unread file", "unread history"],
)
async def test_nothing_large_is_in_a_cycle(
    team: Team, line: str, body: bytes, headers: tuple[str, ...], missing: int
) -> None:
    sent = request(line, team.bob, body, *headers, missing=missing)
    await give_up(team, sent)  # what is loaded once is loaded now
    gc.collect()
    gc.disable()
    try:
        await give_up(team, sent)
        assert collected() < SMALL
    finally:
        gc.enable()


async def give_up(team: Team, sent: bytes) -> None:
    """Send this, and cut the connection once the proxy has read much of it, or answers."""
    before, held = len(asyncio.all_tasks()), team.proxy.services[BUDGET].held()
    reader, writer = await asyncio.open_connection(team.url.host, team.url.port, limit=1024)
    writer.write(sent)
    answer = asyncio.create_task(reader.readline())
    await until(lambda: answer.done() or held["body"] > MB // 4)
    writer.transport.abort()
    with suppress(ConnectionError):
        await answer
    await until(lambda: len(asyncio.all_tasks()) <= before)


def collected() -> int:
    """Collect what is in cycles; the bytes of texts and buffers in it."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        kept = {id(held): held for item in gc.garbage for held in gc.get_referents(item)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    buffers = (held for held in kept.values() if isinstance(held, bytes | bytearray | str))
    return sum(map(sys.getsizeof, buffers))
