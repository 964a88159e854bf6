"""A cloud that mixes up its jobs and its files: no member gets what is another member's."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from aiohttp import web
from broken_cloud import BrokenCloud, broken_cloud
from stack import Client, running_proxy
from team import Team, add_members, bearer, running_team

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
        parsed = json.loads(real)
        if "prompt_id" not in parsed:
            return None
        ids.append(parsed["prompt_id"])
        return json.dumps({**parsed, "prompt_id": ids[0]}).encode()

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


async def test_the_id_of_a_job_of_an_earlier_start_is_refused(
    cloud: BrokenCloud, tmp_path: Path
) -> None:
    repeating(cloud)
    hiding(cloud)
    folder = tmp_path / "of two starts"
    tokens = await add_members(folder, {"ann": "user", "bob": "user"})
    async with (
        running_proxy(cloud, folder, prefetch="off") as proxy,
        aiohttp.ClientSession(headers=bearer(tokens["ann"])) as session,
    ):
        await Client(session, proxy.url).run(graphs.plain(RED))
    async with (
        running_proxy(cloud, folder, prefetch="off") as proxy,
        aiohttp.ClientSession(headers=bearer(tokens["bob"])) as session,
    ):
        bob = Client(session, proxy.url)
        status, answer = await bob.post("prompt", {"prompt": graphs.plain(GREEN)})
        assert (status, answer["error"]["type"]) == (502, "job_id_repeated")
        assert (await bob.get("history"))[1] == {}


async def test_the_id_of_a_job_that_ended_after_another_start_is_refused(
    cloud: BrokenCloud, simulator: Simulator, tmp_path: Path
) -> None:
    repeating(cloud)
    hiding(cloud)
    simulator.switches.pace = 0.2
    folder = tmp_path / "of two starts"
    tokens = await add_members(folder, {"ann": "user", "bob": "user"})
    async with (
        running_proxy(cloud, folder, prefetch="off") as proxy,
        aiohttp.ClientSession(headers=bearer(tokens["ann"])) as session,
    ):
        prompt_id = await Client(session, proxy.url).submit(graphs.sampled(1))
    async with (
        running_proxy(cloud, folder, prefetch="off") as proxy,
        aiohttp.ClientSession(headers=bearer(tokens["ann"])) as hers,
        aiohttp.ClientSession(headers=bearer(tokens["bob"])) as his,
    ):
        assert (await Client(hers, proxy.url).ended(prompt_id))["outputs"]
        status, answer = await Client(his, proxy.url).post("prompt", {"prompt": graphs.sampled(2)})
        assert (status, answer["error"]["type"]) == (502, "job_id_repeated")


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


NAME = "ComfyUI_00001_.png"
_HASH_NAME = re.compile(r"[0-9a-f]{64}\.png")


def calling_all_the_same(cloud: BrokenCloud) -> None:
    """Let the cloud call every output the same; under that name it has the newest one."""
    newest: list[str] = []

    def renamed(text: str) -> str:
        newest.extend(name for name in _HASH_NAME.findall(text) if name not in newest)
        return _HASH_NAME.sub(NAME, text)

    def tells(message: str | bytes) -> list[str | bytes]:
        return [renamed(message) if isinstance(message, str) else message]

    async def view(request: web.Request, _real: bytes) -> web.StreamResponse:
        url = cloud.simulator.base_url / "api/view"
        headers = {"X-API-Key": request.headers["X-API-Key"]}
        async with (
            aiohttp.ClientSession() as session,
            session.get(url.with_query(filename=newest[-1]), headers=headers) as answer,
        ):
            return web.Response(body=await answer.read(), content_type="image/png")

    cloud.tells = tells
    cloud.answer(r"GET /api/jobs(/.*)?", lambda _, real: renamed(real.decode()).encode())
    cloud.answer("GET /api/view", view)


async def picture(client: Client, color: int) -> dict[str, str]:
    """Run a job; its picture's name."""
    entry = await client.run(graphs.plain(color))
    return dict(entry["outputs"]["2"]["images"][0])


async def test_no_picture_of_another_member_comes_from_the_cache(
    cloud: BrokenCloud, ann: Client, bob: Client
) -> None:
    calling_all_the_same(cloud)
    hers = await picture(ann, RED)
    assert graphs.color_of(await ann.view(hers)) == RED
    his = await picture(bob, GREEN)
    assert graphs.color_of(await bob.view(his)) == GREEN
    assert graphs.color_of(await ann.view(hers)) == RED


async def test_a_file_whose_name_another_member_has_now_is_refused(
    cloud: BrokenCloud, ann: Client, bob: Client
) -> None:
    calling_all_the_same(cloud)
    hers = await picture(ann, RED)
    his = await picture(bob, GREEN)
    status, answer = await ann.get("view", **hers)
    assert (status, answer["error"]["type"]) == (404, "file_replaced")
    assert graphs.color_of(await bob.view(his)) == GREEN
