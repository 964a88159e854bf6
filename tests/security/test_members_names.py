"""Members whose files have names that no counter can follow."""

from __future__ import annotations

import asyncio

import aiohttp
import graphs
import pytest
from security.attack import MEMBER, Target

JOBS = 100


async def upload(target: Target, name: str) -> int:
    form = aiohttp.FormData({"type": "output"})
    form.add_field("image", b"not a picture", filename=name)
    return await target.request("POST", "upload/image", data=form)


@pytest.mark.parametrize("number", [2**63 - 1, 10**18, 10**200])
async def test_a_name_with_a_number_beyond_all_counters(target: Target, number: int) -> None:
    graph = graphs.plain()
    for node in graph.values():
        if "filename_prefix" in node.get("inputs", {}):
            node["inputs"]["filename_prefix"] = "N"
    async with target.attacked_by(MEMBER):
        assert await upload(target, f"N_{number}_.png") in (200, 400)
        for _ in range(JOBS):
            assert await target.request("POST", "prompt", json={"prompt": graph}) == 200
        async with (
            asyncio.timeout(120),
            aiohttp.ClientSession(headers=target.bearer()) as session,
        ):
            remaining = JOBS
            while remaining:
                async with session.get(target.url / "prompt") as answer:
                    remaining = (await answer.json())["exec_info"]["queue_remaining"]
                await asyncio.sleep(0.2)
            async with session.get(target.url / "history") as answer:
                ended = [entry["status"]["status_str"] for entry in (await answer.json()).values()]
    assert ended == ["success"] * JOBS
    assert not any(b"database_failed" in line for line in target.process.said)
