"""A member asks many times at once for a job of very many values."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import graphs
import pytest
from security.attack import MEMBER, Target

#: Objects in the graph, each of which takes 15 times its text in memory.
VALUES = 240_000
REQUESTS = 24
JSON = {"Content-Type": "application/json"}


async def run(target: Target, session: aiohttp.ClientSession) -> str:
    """Run a job with a large graph; its id."""
    graph = graphs.plain()
    next(iter(graph.values()))["inputs"]["more"] = [{"a": number} for number in range(VALUES)]
    body = io.BytesIO(json.dumps({"prompt": graph}).encode())
    async with session.post(target.url / "prompt", data=body, headers=JSON) as answer:
        id_ = str((await answer.json())["prompt_id"])
    async with asyncio.timeout(60):
        while True:
            async with session.get(target.url / "api/job" / id_ / "status") as answer:
                if (await answer.json())["status"] == "completed":
                    return id_
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "path",
    ["api/jobs/{}", "api/jobs/{}/assets", "proxy/api/jobs/{}", "proxy/api/workflow?id={}"],
)
async def test_a_job_of_very_many_values(target: Target, path: str) -> None:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=target.bearer(), connector=connector) as session:
        url = f"{target.url}/{path.format(await run(target, session))}"

        async def ask() -> int:
            async with session.get(url) as answer:
                await answer.read()
                return answer.status

        async with target.attacked_by(MEMBER):
            statuses = set(await asyncio.gather(*(ask() for _ in range(REQUESTS))))
    assert statuses <= {200, 429}
    assert 200 in statuses
