"""The proxy's own queue: what waits with us, what goes to the cloud, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
from stack import Client, running_proxy
from waiting import ids, until, until_ended

from proxy.api.keys import JOBS, MEMBERS
from proxy.jobs.models import JobRequest, shown_state
from proxy.members.member import Limits, Member
from proxy.simulator import HttpFault, Simulator

SUBMIT = "POST /api/prompt"
ONE = {"slots": 1}


async def test_the_plan_is_learnt_from_what_runs(
    opened: asyncio.Event, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with (
        Simulator(plan="creator", extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, tmp_path / "data") as proxy,
    ):
        client = Client(session, proxy.url)
        for _ in range(8):
            await client.submit(gated.GRAPH)
        await until(lambda: len(simulator.jobs) == 4)
        queue = (await client.get("queue"))[1]
        assert len(queue["queue_running"]) == 3
        opened.set()
        await until_ended(client, 8)


async def test_what_was_learnt_of_the_plan_survives_a_restart(
    opened: asyncio.Event, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async def slots(client: Client) -> int:
        return int((await client.get("proxy/api/state"))[1]["accounts"][0]["slots"])

    async with Simulator(plan="creator", extra_nodes=[gated.gate(opened)]) as simulator:
        async with running_proxy(simulator, tmp_path / "data") as proxy:
            client = Client(session, proxy.url)
            assert await slots(client) == 1
            for _ in range(8):
                await client.submit(gated.GRAPH)
            await until(lambda: len(simulator.jobs) == 4)
            opened.set()
            await until_ended(client, 8)
        async with running_proxy(simulator, tmp_path / "data") as proxy:
            assert await slots(Client(session, proxy.url)) == 3


async def test_numbers_and_front_decide_the_order(client: Client, opened: asyncio.Event) -> None:
    first = await client.submit(gated.GRAPH)
    late = await client.submit(graphs.plain(1), number=50)
    usual = await client.submit(graphs.plain(2))
    front = await client.submit(graphs.plain(3), front=True)
    early = await client.submit(graphs.plain(4), number=-99.5)
    assert await ids(client) == [early, front, usual, late]
    opened.set()
    assert await until_ended(client, 5) == [first, early, front, usual, late]


async def test_deleted_and_cleared_jobs_leave_no_trace(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    running = await client.submit(gated.GRAPH)
    waiting = [await client.submit(graphs.plain(color)) for color in range(4)]
    calls = simulator.calls.copy()
    await client.post("queue", {"delete": [waiting[1], "unknown"]})
    assert await ids(client) == [waiting[0], waiting[2], waiting[3]]
    status, answer = await client.post(f"api/jobs/{waiting[2]}/cancel")
    assert (status, answer) == (200, {"cancelled": True})
    await client.post("queue", {"clear": True})
    assert await ids(client) == []
    assert set(simulator.calls - calls) <= {"GET /api/jobs", "GET /api/jobs/{id}"}
    opened.set()
    assert await until_ended(client, 1) == [running]
    assert len(simulator.jobs) == 1
    assert (await client.get(f"api/jobs/{waiting[0]}"))[0] == 404


async def test_a_clear_tells_once_how_many_jobs_are_left(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    never_repeated = {"status_interval": 3600.0}
    async with running_proxy(simulator, tmp_path / "data", policy=never_repeated, **ONE) as proxy:
        client = Client(session, proxy.url)
        async with client.listening() as listener:
            running = await client.submit(gated.GRAPH)
            await listener.until("executing", node="1", prompt_id=running)
            for color in range(4):
                await client.submit(graphs.plain(color))
            await listener.until("status", status={"exec_info": {"queue_remaining": 5}})
            listener.received.clear()
            await client.post("queue", {"clear": True})
            opened.set()
            await listener.until_end(running)
    counts = [data["status"]["exec_info"]["queue_remaining"] for data in listener.of("status")]
    assert [count for count in counts if count not in (0, 5)] == [1]


async def test_an_interrupt_leaves_what_waits(client: Client, opened: asyncio.Event) -> None:
    async with client.listening() as listener:
        running = await client.submit(gated.GRAPH)
        waiting = await client.submit(graphs.plain())
        await listener.until("executing", node="1", prompt_id=running)
        await client.post("interrupt", {"prompt_id": waiting})
        assert await ids(client) == [waiting]
        await client.post("interrupt")
        await listener.until_end(running)
        await listener.until_end(waiting)
    assert (await client.history(waiting))["status"]["completed"] is True


async def test_a_restart_changes_no_order(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    folder = tmp_path / "kept"
    async with running_proxy(simulator, folder, **ONE) as proxy:
        client = Client(session, proxy.url)
        async with client.listening() as listener:
            first = await client.submit(gated.GRAPH)
            await listener.until("executing", node="1")
        waiting = [await client.submit(graphs.plain(color)) for color in range(3)]
        front = await client.submit(graphs.plain(9), front=True)
        queue = (await client.get("queue"))[1]
    async with running_proxy(simulator, folder, **ONE) as proxy:
        client = Client(session, proxy.url)
        assert (await client.get("queue"))[1] == queue, "what ran runs, what waited waits"
        last = await client.submit(graphs.plain(10))
        opened.set()
        assert await until_ended(client, 6) == [first, front, *waiting, last]
    assert len(simulator.jobs) == 6


async def test_the_next_job_is_sent_after_the_end_of_one_that_came_later_and_went_first(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    async with client.listening() as listener:
        await client.submit(gated.GRAPH)
        later = await client.submit(graphs.plain(1))
        front = await client.submit(graphs.plain(2), front=True)
        # The first detail that is read after the gate is the running job's, the second front's.
        simulator.faults.add(HttpFault("GET /api/jobs/{id}", delay=0.5), skip=1)
        opened.set()
        await listener.until_end(later)
    messages = [data["prompt_id"] for _, data in listener.received if "prompt_id" in data]
    assert messages == sorted(messages, key=lambda job: job == later)
    assert messages.index(front) < messages.index(later)


async def test_members_take_turns_and_see_what_is_before_them(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_proxy(simulator, tmp_path / "data", **ONE) as proxy:
        directory, jobs = proxy.services[MEMBERS], proxy.services[JOBS]
        await directory.add(Member("anna"))
        await directory.add(Member("ben"))
        await directory.add(Member("limited", limits=Limits(max_running=0)))

        async def submit(member: str, graph: dict[str, Any]) -> str:
            async with jobs.submissions.submitted(member, JobRequest(graph)) as accepted:
                return str(accepted["prompt_id"])

        await submit("anna", gated.GRAPH)
        annas = [await submit("anna", graphs.plain(color)) for color in range(3)]
        bens = [await submit("ben", graphs.plain(color)) for color in range(10, 12)]
        never = await submit("limited", graphs.plain(20))
        await until(lambda: jobs.queue_remaining("anna") == 4 + 3)
        assert jobs.queue_remaining("ben") == 2 + 2
        assert jobs.queue_remaining("nobody") == 0
        views = jobs.overview().jobs
        assert [shown_state(view.job) for view in views[:2]] == ["running", "waiting"]
        why = {view.job.prompt_id: view.reason for view in views}
        assert why[never] == "limit"
        assert why[bens[0]] == "slot"
        opened.set()
        await until(lambda: not jobs.queue_remaining("anna") and not jobs.queue_remaining("ben"))
        served = [
            job.extra_data["comfy_cloud_proxy"].split("/")[1]
            for job in list(simulator.jobs.values())[1:]
        ]
        assert served == [bens[0], annas[0], bens[1], annas[1], annas[2]]
        assert await jobs.cancel("limited", never)
        assert not await jobs.cancel("limited", never)
        await until(lambda: not jobs.live())
