"""Programs that follow one job at a time, on plans that run several."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from stack import Client, Proxy, running_proxy
from team import bearer, running_team
from waiting import running, until
from yarl import URL

from proxy.simulator import Simulator

THREE = {"slots": 3}
SEVERAL = {"supports_preview_metadata": True}


@pytest.fixture
async def simulator(opened: asyncio.Event) -> AsyncIterator[Simulator]:
    async with Simulator(plan="pro", extra_nodes=[gated.gate(opened)]) as running:
        yield running


@pytest.fixture
async def proxy(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(simulator, tmp_path / "data", **THREE) as running:
        yield running


@pytest.fixture
def client(proxy: Proxy, session: aiohttp.ClientSession) -> Client:
    return Client(session, proxy.url)


async def until_running(client: Client, count: int) -> list[str]:
    async def so() -> bool:
        return len(await running(client)) == count

    await until(so)
    return await running(client)


async def test_a_bot_with_one_socket_gets_the_answers_of_all_its_jobs(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    async with client.listening() as listener:
        graphs_ = [gated.GRAPH, graphs.plain(1), graphs.plain(2)]
        ids = [await client.submit(graph) for graph in graphs_]
        assert len(simulator.jobs) == 1
        await listener.until("executing", node="1", prompt_id=ids[0])
        opened.set()
        for prompt_id in ids:
            await listener.until_end(prompt_id)  # drops what it hears of the others
    executing = [data["prompt_id"] for data in listener.of("executing")]
    assert list(dict.fromkeys(executing)) == ids
    assert executing == sorted(executing, key=ids.index)


async def test_why_a_job_waits_for_its_client_is_shown(client: Client) -> None:
    async with client.listening():
        await client.submit(gated.GRAPH)
        waiting = await client.submit(gated.GRAPH)

        async def told() -> bool:
            return "queue_reason" in (await client.get(f"api/jobs/{waiting}"))[1]

        await until(told)
        job = (await client.get(f"api/jobs/{waiting}"))[1]
        assert job["queue_reason"] == "client"
        assert "same client_id" in job["queue_message"]
        listed = (await client.get("proxy/api/state"))[1]["waiting"]
        assert ["job of this client" in listed_job["reason"] for listed_job in listed] == [True]


async def test_different_clients_run_side_by_side_and_overtake_one_that_waits(
    simulator: Simulator, session: aiohttp.ClientSession, client: Client
) -> None:
    other = Client(session, client.url)
    async with client.listening(), other.listening():
        mine = [await client.submit(gated.GRAPH) for _ in range(2)]
        theirs = [await other.submit(gated.GRAPH) for _ in range(2)]
        assert len(simulator.jobs) == 2
        assert sorted(await until_running(client, 2)) == sorted([mine[0], theirs[0]])


@pytest.mark.parametrize(("parallelism", "count"), [("one", 1), ("many", 3)])
async def test_the_setting_holds_whatever_a_client_does(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    parallelism: str,
    count: int,
) -> None:
    policy = {"client_parallelism": parallelism}
    async with running_proxy(simulator, tmp_path / "other", policy=policy, **THREE) as proxy:
        client = Client(session, proxy.url)
        async with client.listening(SEVERAL if parallelism == "one" else None):
            for _ in range(3):
                await client.submit(gated.GRAPH)
            assert len(simulator.jobs) == count


async def test_jobs_go_on_one_after_the_other_behind_a_restart(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_proxy(simulator, tmp_path / "kept", **THREE) as proxy:
        client = Client(session, proxy.url)
        async with client.listening():
            ids = [await client.submit(gated.GRAPH) for _ in range(3)]
    async with running_proxy(simulator, tmp_path / "kept", **THREE) as proxy:
        client = Client(session, proxy.url, client.client_id)
        async with client.listening() as listener:
            assert len((await client.get("queue"))[1]["queue_pending"]) == 2
            assert len(simulator.jobs) == 1
            opened.set()
            for prompt_id in ids:
                await listener.until_end(prompt_id)


# --- members -------------------------------------------------------------------------------


async def as_member(
    session: aiohttp.ClientSession, url: URL, token: str, path: str, body: Any
) -> Any:
    async with session.post(url / path, json=body, headers=bearer(token)) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json(content_type=None) if answer.content_length else None


async def test_a_client_of_one_member_keeps_nobody_elses_waiting(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    body = {"prompt": gated.GRAPH, "client_id": "shared"}
    async with running_team(simulator, tmp_path / "team", **THREE) as team:
        url = (team.url / "ws").with_query(clientId="shared")
        async with (
            session.ws_connect(url, headers=bearer(team.ann)),
            session.ws_connect(url, headers=bearer(team.bob)),
        ):
            for token in (team.ann, team.ann, team.bob, team.bob):
                await as_member(session, team.url, token, "prompt", body)
            assert len(simulator.jobs) == 2
            await team.members.change("bob", client_parallelism="many")
            await as_member(session, team.url, team.bob, "prompt", body)
            assert len(simulator.jobs) == 3


async def test_an_interrupt_leaves_other_members_jobs(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    body = {"prompt": gated.GRAPH}
    async with running_team(simulator, tmp_path / "team", **THREE) as team:
        await as_member(session, team.url, team.ann, "prompt", body)
        await as_member(session, team.url, team.bob, "prompt", body)

        async def queue(token: str) -> list[Any]:
            async with session.get(team.url / "queue", headers=bearer(token)) as answer:
                return list((await answer.json())["queue_running"])

        async def both() -> bool:
            return bool(await queue(team.ann) and await queue(team.bob))

        async def mine_gone() -> bool:
            return not await queue(team.bob)

        await until(both)
        await as_member(session, team.url, team.bob, "interrupt", None)
        await until(mine_gone)
        assert await queue(team.ann)


# --- interrupts ----------------------------------------------------------------------------


@pytest.fixture
async def programs(proxy: Proxy) -> AsyncIterator[list[Client]]:
    """Three programs that differ in nothing but their `User-Agent`."""
    async with (
        aiohttp.ClientSession(headers={"User-Agent": "one"}) as one,
        aiohttp.ClientSession(headers={"User-Agent": "two"}) as two,
        aiohttp.ClientSession(headers={"User-Agent": "three"}) as three,
    ):
        yield [Client(session, proxy.url) for session in (one, two, three)]


async def test_an_interrupt_stops_the_jobs_of_the_program_that_asks(
    programs: list[Client],
) -> None:
    one, two, _ = programs
    theirs = await one.submit(gated.GRAPH)
    for _ in range(2):
        await two.submit(gated.GRAPH)
    await until_running(one, 3)
    await two.post("interrupt")
    assert await until_running(one, 1) == [theirs]


async def test_an_interrupt_of_a_program_without_jobs_stops_the_one_that_runs_longest(
    programs: list[Client],
) -> None:
    one, two, three = programs
    oldest = await one.submit(gated.GRAPH)
    await until_running(one, 1)
    newer = await two.submit(gated.GRAPH)
    await until_running(one, 2)
    await three.post("interrupt")
    assert await until_running(one, 1) == [newer]
    assert (await one.get(f"history/{oldest}"))[1][oldest]["status"]["status_str"] == "error"


async def test_an_interrupt_may_name_a_client(programs: list[Client]) -> None:
    one, two, three = programs
    await one.submit(gated.GRAPH)
    left = await two.submit(gated.GRAPH)
    await until_running(one, 2)
    await three.post("interrupt", {"client_id": one.client_id})
    assert await until_running(one, 1) == [left]
