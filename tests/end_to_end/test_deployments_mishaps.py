"""Both kinds of accounts at once, with kills of the proxy, dropped streams and lost answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from deployments import Place, stamped, stepped
from process import Process, serving
from stack import TIMEOUT, Client
from team import bearer, running_team

from proxy.simulator import Simulator, Switches
from proxy.simulator.deployment import DeploymentSwitches, SimulatedDeployment

#: Jobs of the run with kills; half of them have nodes of their own.
JOBS = int(os.environ.get("CHAOS_JOBS", "60"))


def graph_of(number: int) -> dict[str, Any]:
    """A graph that no other job has; the odd ones run on the deployment."""
    if number % 2:
        return stepped(5, number)
    return graphs.plain(number, size=64 + number)


async def accepted(session: aiohttp.ClientSession, process: Process, number: int) -> str | None:
    """Submit a job until a proxy takes it or knows it; its id, `None` if this one went away."""
    prompt_id = str(uuid.UUID(int=number + 1))
    body = {"prompt": graph_of(number), "prompt_id": prompt_id}
    try:
        async with session.get(process.url / "api/jobs" / prompt_id) as found:
            if found.status == 200:
                return prompt_id
        async with session.post(process.url / "prompt", json=body) as answer:
            return prompt_id if answer.status in (200, 409) else None
    except (aiohttp.ClientError, ConnectionError):
        return None


async def missing(client: Client, ids: set[str]) -> set[str]:
    """Return which of the jobs have no entry in the history."""
    _, history = await client.get("history")
    return ids - set(history)


async def test_nothing_is_lost_or_doubled_on_either_kind(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    draw = random.Random(7)
    async with (
        Simulator(plan="pro", switches=Switches(pace=0.01)) as simulator,
        SimulatedDeployment(switches=DeploymentSwitches(workers=4, pace=0.01)) as deployment,
    ):
        place = Place(simulator, deployment, tmp_path, session)
        options = ("--config", str(place.config(cloud=True, slots=4)))
        waiting = list(range(JOBS))
        known: set[str] = set()
        while waiting:
            async with serving(tmp_path / "data", *options) as process:
                await Client(session, process.url).until_ready()
                batch = [waiting.pop() for _ in range(min(len(waiting), JOBS // 4))]
                deployment.switches.lose_answers = 1
                submitting = asyncio.gather(
                    *(accepted(session, process, number) for number in batch)
                )
                await asyncio.sleep(draw.uniform(0.1, 0.6))
                deployment.drop_streams()
                await asyncio.sleep(draw.uniform(0.1, 0.6))
                await process.kill()
                answers = await submitting
                waiting += [
                    number for number, id_ in zip(batch, answers, strict=True) if id_ is None
                ]
                known |= {id_ for id_ in answers if id_ is not None}
        ids = {str(uuid.UUID(int=number + 1)) for number in range(JOBS)}
        assert known == ids
        async with serving(tmp_path / "data", *options) as process:
            client = Client(session, process.url)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    while gone := await missing(client, ids):
                        # What was not told to its client, and never sent, may be forgotten.
                        for id_ in gone:
                            await accepted(session, process, uuid.UUID(id_).int - 1)
                        await asyncio.sleep(0.2)
            assert await missing(client, ids) == set()
            _, history = await client.get("history")
        assert Counter(entry["status"]["status_str"] for entry in history.values()) == {
            "success": JOBS
        }
        labels = Counter(job.metadata["ccp_job"] for job in deployment.jobs.values())
        assert labels.total() == len(labels) == JOBS // 2
        marks = Counter(job.extra_data["comfy_cloud_proxy"] for job in simulator.jobs.values())
        assert marks.total() == len(marks) == JOBS // 2


# --- without kills -------------------------------------------------------------------------


@pytest.fixture
async def deployment() -> AsyncIterator[SimulatedDeployment]:
    async with SimulatedDeployment(switches=DeploymentSwitches(pace=0.01)) as running:
        yield running


@pytest.mark.parametrize("late", [False, True])
async def test_the_order_holds_while_streams_drop_and_outputs_come_late(
    place: Place, late: bool
) -> None:
    place.deployment.switches.outputs_late = late
    place.deployment.switches.streams_hang = late
    async with place.proxy() as (client, _), client.listening() as listener:
        ids = [await client.submit(stepped(30, number)) for number in range(6)]
        for prompt_id in ids:
            place.deployment.drop_streams()
            if not any(data.get("prompt_id") == prompt_id for data in listener.of("executing")):
                await listener.until("executing", prompt_id=prompt_id)
        for prompt_id in ids:
            await client.ended(prompt_id)
        last = await client.submit(graphs.plain())
        await listener.until_end(last)
    for prompt_id in ids:
        types = [
            type_
            for type_, data in listener.received
            if type_ not in ("status", "binary") and data.get("prompt_id") == prompt_id
        ]
        assert types[:2] == ["execution_start", "execution_cached"]
        assert types[-2:] == ["execution_success", "executing"]
        assert types.count("executed") == 1


async def test_members_on_one_deployment_have_their_own_files_and_jobs(place: Place) -> None:
    graph = stamped("cat.png")
    tables, folder = place.tables(), place.folder / "data"
    async with (
        running_team(place.simulator, folder, accounts=tables) as team,
        aiohttp.ClientSession(headers=bearer(team.ann)) as of_ann,
        aiohttp.ClientSession(headers=bearer(team.bob)) as of_bob,
    ):
        ann, bob = Client(of_ann, team.url), Client(of_bob, team.url)
        await ann.upload("cat.png", graphs.png((255, 0, 0)))
        entry = await ann.run(graph)
        item = entry["outputs"]["3"]["images"][0]
        status, refused = await bob.post("prompt", {"prompt": graph})
        assert (status, [*refused["node_errors"]]) == (400, ["2"]), "he has no cat.png"
        await bob.upload("cat.png", graphs.png((0, 0, 255)))
        other = await bob.run(graph)
        assert await bob.view(other["outputs"]["3"]["images"][0]) != await ann.view(item)
        assert entry["prompt"][1] not in (await bob.get("history"))[1]
        reference = {"__type": "core/ASSET", "info": {"id": asset_of(place)}}
        graph["2"]["inputs"]["stamp"] = reference
        status, _ = await bob.post("prompt", {"prompt": graph})
        assert status == 400, "an id of an asset is nobody's to name"
    assert len(place.deployment.jobs) == 2


async def test_the_account_that_a_members_settings_name_gets_its_jobs(place: Place) -> None:
    async with (
        running_team(place.simulator, place.folder / "data", accounts=place.tables()) as team,
        aiohttp.ClientSession(headers=bearer(team.ann)) as of_ann,
        aiohttp.ClientSession(headers=bearer(team.bob)) as of_bob,
    ):
        await team.members.change("ann", account="studio")
        await Client(of_ann, team.url).run(graphs.plain(1))
        await Client(of_bob, team.url).run(graphs.plain(2))
    colors = [
        job.graph["1"]["inputs"]["color"]
        for jobs in (place.deployment.jobs, place.simulator.jobs)
        for job in jobs.values()  # type: ignore[attr-defined]
    ]
    assert colors == [1, 2]


def asset_of(place: Place) -> str:
    """The id of an asset of somebody."""
    return next(iter(place.deployment.workers.assets))
