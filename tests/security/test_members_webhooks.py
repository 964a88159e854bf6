"""A member whose webhooks are many, large, and answered by nobody."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import graphs
import pytest
from aiohttp import web
from receiver import Receiver, receiving
from security.attack import MEMBER, Target
from security.conftest import Start

#: Endpoints of a member, and how often they are made anew while attempts hang.
ENDPOINTS, ROUNDS = 10, 3
#: Jobs of each round, the outputs of each and the characters of their prefix.
JOBS, OUTPUTS, PREFIX = 10, 100, 1400
#: Seconds within which the message of another member comes.
WAIT = 5.0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def add(target: Target, receiver: Receiver, path: str, member: str) -> str:
    """Add a webhook; its id."""
    wanted = {"url": str(receiver.url / path)}
    async with (
        aiohttp.ClientSession(headers=target.bearer(member)) as session,
        session.post(target.url / "proxy/api/webhooks", json=wanted) as answer,
    ):
        assert answer.status == 201, await answer.text()
        return str((await answer.json())["id"])


async def run(target: Target, member: str, body: dict[str, Any]) -> None:
    """Submit a job, packed."""
    headers = {"Content-Encoding": "deflate", "Content-Type": "application/json"}
    data = zlib.compress(json.dumps(body).encode(), 9)
    assert await target.request("POST", "prompt", member=member, data=data, headers=headers) == 200


def many_outputs() -> dict[str, Any]:
    """A graph of many outputs with long prefixes."""
    graph = graphs.plain(size=8)
    save = graph.pop("2")
    for number in range(OUTPUTS):
        prefix = f"{number}" + (150 * "x" + "/") * (PREFIX // 150) + "x"
        inputs = {**save["inputs"], "filename_prefix": prefix}
        graph[f"save {number}"] = {**save, "inputs": inputs}
    return graph


async def test_endpoints_that_hang_and_are_made_anew(start: Start, receiver: Receiver) -> None:
    async with start("--webhook-networks", "127.0.0.0/8") as target:
        await add(target, receiver, "bob", "bob")
        receiver.hang("/eve")
        async with target.attacked_by(MEMBER):
            for _ in range(ROUNDS):
                ids = [await add(target, receiver, "eve", "eve") for _ in range(ENDPOINTS)]
                before = len(receiver.at("/eve"))
                for _ in range(4):
                    await run(target, "eve", {"prompt": graphs.plain(size=8)})
                await receiver.until(before + ENDPOINTS, "/eve")
                for id_ in ids:
                    path = f"proxy/api/webhooks/{id_}"
                    assert await target.request("DELETE", path) == 204
            for _ in range(ENDPOINTS):
                await add(target, receiver, "eve", "eve")
            for _ in range(4):
                await run(target, "eve", {"prompt": graphs.plain(size=8)})
            await run(target, "bob", {"prompt": graphs.plain(size=8)})
            async with asyncio.timeout(WAIT):
                await receiver.until(1, "/bob")


async def test_messages_about_jobs_of_many_outputs(start: Start, receiver: Receiver) -> None:
    sizes: list[int] = []

    async def fail(request: web.Request) -> web.StreamResponse:
        sizes.append(len(await request.read()))
        return web.Response(status=500)

    receiver.answers["/eve"] = fail
    async with start("--webhook-networks", "127.0.0.0/8") as target:
        for _ in range(ENDPOINTS):
            await add(target, receiver, "eve", "eve")
        async with target.attacked_by(MEMBER):
            for _ in range(JOBS):
                await run(target, "eve", {"prompt": many_outputs()})
            await receiver.until(JOBS * ENDPOINTS, "/eve")
    assert max(sizes) <= 64 * 1024
