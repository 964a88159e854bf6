"""What the dashboard counts, and how often."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import graphs
from stack import TIMEOUT
from team import Team, bearer, running_team

from proxy.simulator import Simulator


async def used(session: aiohttp.ClientSession, team: Team) -> list[dict[str, Any]]:
    url = team.url / "proxy/api/state"
    async with session.get(url, headers=bearer(team.bob)) as answer:
        return list((await answer.json())["usage"])


async def test_a_job_that_left_while_it_waited_is_not_counted(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_team(simulator, tmp_path, slots=1) as team:
        ids = []
        for seconds in (30.0, 31.0):
            body = {"prompt": graphs.waiting(seconds)}
            url = team.url / "prompt"
            async with session.post(url, json=body, headers=bearer(team.bob)) as answer:
                ids.append((await answer.json())["prompt_id"])
        assert [row["jobs"] for row in await used(session, team)] == [2]
        url, body = team.url / "queue", {"delete": ids[1:]}
        async with session.post(url, json=body, headers=bearer(team.bob)) as answer:
            assert answer.status == 200
        assert [row["jobs"] for row in await used(session, team)] == [1]


async def test_a_job_that_failed_twice_under_one_id_is_one_failure(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    prompt_id = "0f0f0f0f-0000-4000-8000-000000000000"
    body = {"prompt": graphs.raising(), "prompt_id": prompt_id}
    async with running_team(simulator, tmp_path) as team, asyncio.timeout(TIMEOUT):
        headers = bearer(team.bob)
        for _ in range(2):
            async with session.post(team.url / "prompt", json=body, headers=headers) as answer:
                assert answer.status == 200
            remaining = 1
            while remaining:
                await asyncio.sleep(0.05)
                async with session.get(team.url / "prompt", headers=headers) as answer:
                    remaining = (await answer.json())["exec_info"]["queue_remaining"]
        async with session.get(team.url / "proxy/api/jobs", headers=headers) as answer:
            failures = (await answer.json())["jobs"]
        assert [failure["id"] for failure in failures] == [prompt_id]
