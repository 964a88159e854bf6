"""What a client sees and stops of a job that the cloud has not begun: locally it would run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import aiohttp
import graphs
import pytest
from stack import Client, Proxy, running_proxy
from team import bearer, running_team
from waiting import ids, running, until

from proxy.api import jobs
from proxy.engine.follower import Happening, JobFollower
from proxy.simulator import Simulator

#: Longer than any test: the cloud has the job and does not begin it.
LONG = 60.0


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(plan="pro") as simulator:
        yield simulator


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(simulator, tmp_path / "data", slots=3) as proxy:
        yield proxy


async def test_an_accepted_job_is_running_in_all_answers(
    simulator: Simulator, client: Client
) -> None:
    simulator.switches.capacity_wait = LONG
    async with client.listening() as listener:
        first = await client.submit(graphs.plain())
        assert (await running(client), await ids(client)) == ([first], [])
        second = await client.submit(graphs.plain())
        assert (await running(client), await ids(client)) == ([first], [second])
        _, listed = await client.get("api/jobs", sort_order="asc")
        assert [job["status"] for job in listed["jobs"]] == ["in_progress", "pending"]
        statuses = [(await client.get(f"api/jobs/{id_}"))[1]["status"] for id_ in (first, second)]
        assert statuses == ["in_progress", "pending"]
        assert (await client.get("prompt"))[1] == {"exec_info": {"queue_remaining": 2}}
        await listener.until("status", status={"exec_info": {"queue_remaining": 2}})


async def test_a_client_has_its_answer_before_the_engine_goes_on_with_the_job(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    follow = JobFollower.follow

    def begin(follower: JobFollower) -> AsyncGenerator[Happening, None]:
        order.append("the engine goes on")
        return follow(follower)

    def record(*_: object, **__: object) -> None:
        order.append("the answer was sent")

    monkeypatch.setattr(JobFollower, "follow", begin)
    monkeypatch.setattr(jobs, "record_action", record)
    await client.submit(graphs.plain())
    await until(lambda: len(order) == 2)
    assert order == ["the answer was sent", "the engine goes on"]


@pytest.mark.parametrize("body", [None, {}, "named", "client"])
async def test_an_interrupt_ends_it_as_an_interrupted_run(
    simulator: Simulator, client: Client, body: object
) -> None:
    simulator.switches.capacity_wait = LONG
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.plain())
        named = {"named": {"prompt_id": prompt_id}, "client": {"client_id": client.client_id}}
        await client.post("interrupt", named.get(str(body), body))
        await listener.until_end(prompt_id)
    assert listener.types() == [
        "execution_start",
        "execution_cached",
        "execution_interrupted",
        "executing",
    ]
    status = (await client.history(prompt_id))["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    assert [job.status for job in simulator.jobs.values()] == ["cancelled"]
    assert await running(client) == []


async def test_an_interrupt_with_the_id_of_a_job_that_waits_beside_another_is_ignored(
    simulator: Simulator, client: Client
) -> None:
    async with client.listening() as listener:
        await client.submit(graphs.waiting(LONG))
        await listener.until("executing", node="2")
    simulator.switches.capacity_wait = LONG
    body = {"prompt": graphs.plain(), "client_id": "of this prompt alone"}
    prompt_id = (await client.post("prompt", body))[1]["prompt_id"]
    await until(lambda: len(simulator.jobs) == 2)
    await client.post("interrupt", {"prompt_id": prompt_id})
    assert await ids(client) == [prompt_id]
    await client.post("queue", {"delete": [prompt_id]})
    assert await ids(client) == []
    assert (await client.get(f"history/{prompt_id}"))[1] == {}


async def test_an_interrupt_of_one_program_leaves_the_job_of_another(
    simulator: Simulator, proxy: Proxy
) -> None:
    async with (
        aiohttp.ClientSession(headers={"User-Agent": "one"}) as one,
        aiohttp.ClientSession(headers={"User-Agent": "two"}) as two,
    ):
        first, second = Client(one, proxy.url), Client(two, proxy.url)
        async with first.listening() as listener:
            left = await first.submit(graphs.waiting(LONG))
            await listener.until("executing", node="2")
        simulator.switches.capacity_wait = LONG
        async with second.listening() as listener:
            stopped = await second.submit(graphs.plain())
            await second.post("interrupt")
            await listener.until_end(stopped)
        assert await running(first) == [left]


async def test_a_waiting_job_of_the_same_client_is_left(
    simulator: Simulator, client: Client
) -> None:
    async with client.listening() as listener:
        stopped = await client.submit(graphs.waiting(LONG))
        await listener.until("executing", node="2")
        left = await client.submit(graphs.plain())
        await client.post("interrupt", {"prompt_id": left})
        await client.post("interrupt")
        await listener.until_end(stopped)
        await listener.until_end(left)
    assert (await client.history(left))["status"]["completed"] is True


async def test_a_job_that_waits_for_another_member_is_interrupted_where_it_waits(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with (
        running_team(simulator, tmp_path / "team", slots=1) as team,
        aiohttp.ClientSession(headers=bearer(team.ann)) as anns,
        aiohttp.ClientSession(headers=bearer(team.bob)) as bobs,
    ):
        ann, bob = Client(anns, team.url), Client(bobs, team.url)
        left = await ann.submit(graphs.waiting(LONG))
        async with bob.listening() as listener:
            prompt_id = await bob.submit(graphs.plain())
            assert (await running(bob), await ids(bob)) == ([prompt_id], [])
            await bob.post("interrupt")
            await listener.until_end(prompt_id)
        assert (await bob.history(prompt_id))["status"]["status_str"] == "error"
        assert len(simulator.jobs) == 1
        assert await running(ann) == [left]


async def test_a_job_that_is_being_sent_is_interrupted_when_the_cloud_has_it(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path / "one", slots=1) as proxy:
        client = Client(session, proxy.url)
        async with client.listening() as listener:
            first = await client.submit(graphs.plain())
            simulator.switches.update({"late_answer": 0.5, "capacity_wait": LONG})
            second = await client.submit(graphs.plain(1))
            await until(lambda: len(simulator.jobs) == 2)
            await listener.until_end(first)
            assert await running(client) == [second]
            await client.post("interrupt")
            await listener.until_end(second)
    assert [job.status for job in simulator.jobs.values()][1] == "cancelled"
