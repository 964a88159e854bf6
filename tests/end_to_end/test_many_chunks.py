"""Bodies in very many chunks: they arrive as they were sent, however they are cut, in turns."""

from __future__ import annotations

import asyncio
import random

import pytest
from stack import Client


def chunked(body: bytes, chance: random.Random) -> bytes:
    """The body in chunks of mostly one byte."""
    pieces, at = [], 0
    while at < len(body):
        size = chance.choice((1, 1, 1, 2, 30, 3000))
        piece = body[at : at + size]
        pieces.append(b"%x\r\n%s\r\n" % (len(piece), piece))
        at += size
    return b"".join(pieces) + b"0\r\n\r\n"


def put(name: str, body: bytes, chance: random.Random) -> bytes:
    head = f"POST /userdata/{name}?overwrite=true HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    filler = "".join(f"X-{number}: {number}\r\n" for number in range(chance.choice((0, 100))))
    kind = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n"
    return f"{head}{filler}{kind}\r\n".encode() + chunked(body, chance)


@pytest.mark.parametrize("seed", range(12))
async def test_bodies_in_many_chunks_arrive_as_they_were_sent(client: Client, seed: int) -> None:
    chance = random.Random(seed)
    bodies = {f"{number}.txt": chance.randbytes(chance.randrange(40_000)) for number in range(3)}
    sent = b"".join(put(name, body, chance) for name, body in bodies.items())
    sent += b"GET /queue HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection(client.url.host, client.url.port)
    at = 0
    while at < len(sent):
        size = chance.choice((1, 500, 5000, 300_000))
        writer.write(sent[at : at + size])
        await writer.drain()
        at += size
    async with asyncio.timeout(60):
        answers = await reader.read()
    writer.close()
    assert answers.count(b"HTTP/1.1 200 OK") == 4
    for name, body in bodies.items():
        async with client.session.get(client.url / "userdata" / name) as answer:
            assert await answer.read() == body


async def test_a_body_that_is_cut_off_while_it_waits_harms_nobody(client: Client) -> None:
    whole = put("a.txt", bytes(40_000), random.Random(1))
    for _ in range(10):
        _, writer = await asyncio.open_connection(client.url.host, client.url.port)
        writer.write(whole[:150_000])
        await writer.drain()
        writer.transport.abort()
    assert (await client.get("queue"))[0] == 200
