"""A member whose runs could make those of others look dear."""

from __future__ import annotations

import asyncio

import aiohttp
import graphs
from process import TIMEOUT
from security.attack import Target
from security.conftest import Start

#: Credits of a day, which pay 11 seconds; a job of an unknown shape is expected to run 10.
BUDGET, LONG = 3, 12.0


async def run(target: Target, seconds: float) -> None:
    """Run a job of Eve to its end."""
    async with (
        aiohttp.ClientSession(target.url, headers=target.bearer()) as session,
        asyncio.timeout(TIMEOUT),
    ):
        async with session.post("/prompt", json={"prompt": graphs.waiting(seconds)}) as answer:
            assert answer.status == 200, await answer.text()
            id_ = (await answer.json())["prompt_id"]
        while True:
            async with session.get(f"/history/{id_}") as answer:
                if id_ in await answer.json():
                    return
            await asyncio.sleep(0.1)


async def test_a_long_run_of_one_member_refuses_no_short_one_of_another(start: Start) -> None:
    async with start("--credits-per-day", str(BUDGET)) as target:
        await run(target, LONG)
        short = {"prompt": graphs.waiting(0.1)}
        assert await target.request("POST", "prompt", json=short) == 429
        assert await target.request("POST", "prompt", member="bob", json=short) == 200
