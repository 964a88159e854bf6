"""A cloud that mixes up its jobs and its files: no member gets what is another member's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from aiohttp import web
from broken_cloud import BrokenCloud, broken_cloud
from stack import Client
from team import Team, bearer, running_team

from proxy.simulator import Simulator

RED, GREEN = 0xFF0000, 0x00FF00


@pytest.fixture
async def cloud(simulator: Simulator) -> AsyncIterator[BrokenCloud]:
    simulator.set_plan("creator")
    async with broken_cloud(simulator) as running:
        yield running


@pytest.fixture
async def team(cloud: Any, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(cloud, tmp_path / "data", prefetch="off") as running:
        yield running


@pytest.fixture
async def ann(team: Team) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(headers=bearer(team.ann)) as session:
        yield Client(session, team.url)


@pytest.fixture
async def bob(team: Team) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(headers=bearer(team.bob)) as session:
        yield Client(session, team.url)


def repeating(cloud: BrokenCloud) -> list[str]:
    """Let the cloud answer each submission with the id of the first one; the real ids."""
    ids: list[str] = []

    def same(_request: web.Request, real: bytes) -> bytes | None:
        said = json.loads(real)
        if "prompt_id" not in said:
            return None
        ids.append(said["prompt_id"])
        return json.dumps({**said, "prompt_id": ids[0]}).encode()

    cloud.answer("POST /api/prompt", same)
    return ids


def hiding(cloud: BrokenCloud) -> None:
    """Let the cloud's list of jobs be empty, so that no job is found by its mark."""
    cloud.answer("GET /api/jobs", lambda *_: b'{"jobs": [], "pagination": {"has_more": false}}')


async def test_the_id_of_another_members_job_is_refused(
    cloud: BrokenCloud, ann: Client, bob: Client
) -> None:
    repeating(cloud)
    hiding(cloud)
    hers = await ann.run(graphs.plain(RED))
    assert hers["status"]["status_str"] == "success"
    status, answer = await bob.post("prompt", {"prompt": graphs.plain(GREEN)})
    assert (status, answer["error"]["type"]) == (502, "job_id_repeated")
    assert (await bob.get("history"))[1] == {}


async def test_a_live_jobs_id_is_refused_and_that_job_goes_on(
    cloud: BrokenCloud, simulator: Simulator, ann: Client, bob: Client
) -> None:
    repeating(cloud)
    hiding(cloud)
    simulator.switches.pace = 0.2
    async with ann.listening() as listener:
        prompt_id = await ann.submit(graphs.sampled(1))
        status, answer = await bob.post("prompt", {"prompt": graphs.sampled(2)})
        assert (status, answer["error"]["type"]) == (502, "job_id_repeated")
        await listener.until_end(prompt_id)
    assert (await ann.history(prompt_id))["status"]["status_str"] == "success"


async def test_a_job_whose_answer_named_another_is_found_by_its_mark(
    cloud: BrokenCloud, ann: Client, bob: Client
) -> None:
    ids = repeating(cloud)
    await ann.run(graphs.plain(RED))
    async with bob.listening() as listener:
        prompt_id = await bob.submit(graphs.plain(GREEN))
        await listener.until_end(prompt_id)
    assert len(ids) == 2
    image = (await bob.history(prompt_id))["outputs"]["2"]["images"][0]
    assert graphs.color_of(await bob.view(image)) == GREEN
