"""kill -9 at the worst moments, and the start behind it. The cloud outlives every proxy."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
from process import before, serving
from stack import Client, Listener, running_proxy

from proxy.simulator import HttpFault, Simulator


async def raw(client: Client, path: str) -> bytes:
    async with client.session.get(client.url / path) as answer:
        return await answer.read()


def check_the_rest(listener: Listener, prompt_id: str) -> None:
    """What came after the restart is the rest of a life: in order, with one end, and ended."""
    types = [
        type_
        for type_, data in listener.received
        if type_ not in ("status", "binary") and data.get("prompt_id") == prompt_id
    ]
    ends = types.index("execution_success")
    assert types[ends:] == ["execution_success", "executing"]
    assert types.count("execution_start") <= 1
    assert types.count("executed") == 1


async def test_what_was_accepted_is_known_and_goes_on(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    client_id, opened = "the one client", asyncio.Event()
    async with Simulator(extra_nodes=[gated.gate(opened)]) as simulator:
        async with serving(tmp_path, environment=before(simulator)) as process:
            client = Client(session, process.url, client_id)
            ended = await client.run(graphs.plain(1))
            item = ended["outputs"]["2"]["images"][0]
            picture = await client.view(item)
            async with client.listening() as listener:
                running = await client.submit(gated.GRAPH)
                await listener.until("executing", node="1")
                waiting = await client.submit(graphs.plain(2))
                history, queue = [await raw(client, path) for path in ("history", "queue")]
                await process.kill()
        async with serving(tmp_path, environment=before(simulator)) as process:
            client = Client(session, process.url, client_id)
            assert await raw(client, "history") == history
            assert ids(json.loads(await raw(client, "queue"))) == {running, waiting}
            assert await client.view(item) == picture
            async with client.listening() as listener:
                opened.set()
                await listener.until_end(running)
                check_the_rest(listener, running)
                await listener.until_end(waiting)
                check_the_rest(listener, waiting)
            entry = await client.history(waiting)
            assert entry["outputs"]["2"]["images"][0]["filename"] == "ComfyUI_00002_.png"
            assert entry["prompt"] == json.loads(queue)["queue_pending"][0]
            assert len((await client.get("history"))[1]) == 3
            assert await process.stop() == 0
        assert len(simulator.jobs) == 3


def ids(queue: dict[str, Any]) -> set[str]:
    return {item[1] for item in queue["queue_running"] + queue["queue_pending"]}


async def killed_while_submitting(
    simulator: Simulator, folder: Path, session: aiohttp.ClientSession
) -> str:
    """Kill the proxy between its call and the cloud's answer; the id of the job."""
    prompt_id = str(uuid.uuid4())
    async with serving(folder, environment=before(simulator)) as process:
        client = Client(session, process.url)
        answer = asyncio.create_task(client.submit(graphs.plain(), prompt_id=prompt_id))
        await simulator.wait_for_calls("POST /api/prompt")
        if simulator.switches.late_answer:
            await simulator.signal.until(lambda: len(simulator.jobs) == 1, 20)
        await process.kill()
        await asyncio.wait([answer])
        assert answer.exception() is not None
    simulator.switches.late_answer = 0.0
    return prompt_id


async def test_a_job_that_the_cloud_took_before_the_answer_is_adopted(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    simulator.switches.late_answer = 30.0
    prompt_id = await killed_while_submitting(simulator, tmp_path, session)
    async with running_proxy(simulator, tmp_path) as proxy:
        entry = await Client(session, proxy.url).ended(prompt_id)
        assert entry["status"]["completed"] is True
        assert entry["outputs"]["2"]["images"]
    assert len(simulator.jobs) == 1


async def test_it_is_adopted_although_the_account_cannot_be_read_at_first(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    simulator.switches.late_answer = 30.0
    prompt_id = await killed_while_submitting(simulator, tmp_path, session)
    broken = simulator.faults.add(HttpFault("GET /api/*", reset=True), times=None)
    policy = {"adoption_timeout": 0.0}
    async with running_proxy(simulator, tmp_path, policy=policy) as proxy:
        await simulator.signal.until(lambda: broken.happened > 0, 20)
        simulator.faults.remove(broken)
        entry = await Client(session, proxy.url).ended(prompt_id)
        assert entry["status"]["completed"] is True
    assert len(simulator.jobs) == 1


async def test_what_may_be_on_the_cloud_is_listed_from_the_start(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    simulator.switches.late_answer = 30.0
    prompt_id = await killed_while_submitting(simulator, tmp_path, session)
    unread = simulator.faults.add(HttpFault("GET /api/jobs*", reset=True), times=None)
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"]] == [prompt_id]
        assert queue["queue_running"][0][4] == ["2"]
        _, job = await client.get(f"api/jobs/{prompt_id}")
        assert job["status"] == "in_progress"
        assert (await client.get("prompt"))[1] == {"exec_info": {"queue_remaining": 1}}
        simulator.faults.remove(unread)
        await client.ended(prompt_id)
        assert ids((await client.get("queue"))[1]) == set()
    assert len(simulator.jobs) == 1


async def test_one_that_is_listed_can_be_interrupted(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    simulator.switches.update({"late_answer": 30.0, "capacity_wait": 60.0})
    prompt_id = await killed_while_submitting(simulator, tmp_path, session)
    unread = simulator.faults.add(HttpFault("GET /api/jobs*", reset=True), times=None)
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        await client.post("interrupt", {"prompt_id": prompt_id})
        simulator.faults.remove(unread)
        await simulator.wait_for_calls("POST /api/jobs/{id}/cancel")
        assert (await client.ended(prompt_id))["status"]["completed"] is False
        assert ids((await client.get("queue"))[1]) == set()


async def test_one_that_never_arrived_is_sent_and_has_an_end(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    lost = simulator.faults.add(HttpFault("POST /api/prompt", delay=60))
    prompt_id = await killed_while_submitting(simulator, tmp_path, session)
    simulator.faults.remove(lost)
    policy = {"adoption_timeout": 0.0}
    unread = simulator.faults.add(HttpFault("GET /api/jobs*", reset=True), times=None)
    async with running_proxy(simulator, tmp_path, policy=policy) as proxy:
        client = Client(session, proxy.url)
        assert ids((await client.get("queue"))[1]) == {prompt_id}
        simulator.faults.remove(unread)
        assert (await client.ended(prompt_id))["status"]["completed"] is True
        assert ids((await client.get("queue"))[1]) == set()
    assert len(simulator.jobs) == 1
