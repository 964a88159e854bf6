"""A member whose runs could make those of others look dear."""

from __future__ import annotations

import asyncio

import aiohttp
import graphs
from process import TIMEOUT
from security.conftest import Start

#: Credits of a day, which pay 11 seconds; a job of an unknown shape is expected to run 10.
BUDGET, LONG = 3, 12.0


async def test_a_long_run_of_one_member_refuses_no_short_one_of_another(start: Start) -> None:
    async with start("--credits-per-day", str(BUDGET)) as target:
        short, long = graphs.waiting(0.1), graphs.waiting(LONG)
        assert await target.request("POST", "prompt", json={"prompt": long}) == 200
        estimate = 0.0
        async with (
            aiohttp.ClientSession(target.url, headers=target.bearer()) as session,
            asyncio.timeout(TIMEOUT),
        ):
            while estimate <= BUDGET:  # until the run has ended, and was learned from
                await asyncio.sleep(0.2)
                async with session.post("/prompt", json={"prompt": short}) as answer:
                    assert answer.status == 429
                    estimate = (await answer.json())["error"]["extra_info"]["estimate"]
        bobs = await target.request("POST", "prompt", member="bob", json={"prompt": short})
        assert bobs == 200
