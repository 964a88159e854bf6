"""The event socket in every kind of trouble: the client's life of a job is whole each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import cycle
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from lives import assert_whole
from msgspec.structs import replace
from stack import Client, running_proxy

from proxy.cloud.event_socket import IdleWatchdog, Timeouts
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator, SocketFault

SOCKET = "GET /ws"
LIST = "GET /api/jobs"
DETAIL = "GET /api/jobs/{id}"

RECONNECTS = Backoff(first=0.01, longest=0.05)
QUICK = Timeouts(
    socket_backoff=RECONNECTS,
    watchdog=lambda: IdleWatchdog(first=0.2, longest=0.8),
    socket_timeout=0.1,
)
#: A busy machine may be silent for longer than `QUICK` waits.
PATIENT = replace(QUICK, watchdog=lambda: IdleWatchdog(first=1.0, longest=2.0))
TALKING = Timeouts(socket_backoff=RECONNECTS)
PINGING = Timeouts(socket_backoff=RECONNECTS, heartbeat=0.3)

EVENTS = ["execution_start", "executing", "progress", "executed", "execution_success"]
MISHAPS = ["drop", "close", "duplicate", "reorder", "lose", "garbage", "delay"]


@pytest.fixture
def timeouts() -> Timeouts:
    return PATIENT


@pytest.fixture
async def client(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, timeouts: Timeouts
) -> AsyncIterator[Client]:
    async with running_proxy(simulator, tmp_path / "data", timeouts=timeouts) as proxy:
        await simulator.wait_for_sockets()
        yield Client(session, proxy.url)


@pytest.mark.parametrize(("kind", "event"), list(zip(MISHAPS, cycle(EVENTS), strict=False)))
async def test_a_mishap_on_the_way_changes_nothing_of_a_life(
    simulator: Simulator, client: Client, kind: str, event: str
) -> None:
    mishap = simulator.faults.add(SocketFault(kind, event=event))  # type: ignore[arg-type]
    async with client.listening({"supports_preview_metadata": True}) as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        entry = await assert_whole(client, listener, prompt_id)
    assert mishap.happened == 1
    assert set(entry["outputs"]) == {"9"}


@pytest.mark.parametrize("kind", ["duplicate", "reorder", "lose", "garbage"])
async def test_mishaps_with_every_message_change_nothing_of_a_life(
    simulator: Simulator, client: Client, kind: str
) -> None:
    simulator.faults.add(SocketFault(kind), times=None, chance=0.5)  # type: ignore[arg-type]
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id)


async def test_a_message_that_is_too_large_costs_a_connection_and_no_more(
    simulator: Simulator, client: Client
) -> None:
    simulator.faults.add(SocketFault("oversized", event="progress"))
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id)
    await simulator.wait_for_calls(SOCKET, 2)


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_while_the_socket_is_refused_jobs_go_on_by_polling(
    simulator: Simulator, client: Client, status: int
) -> None:
    refusals = simulator.faults.add(SocketFault("refuse", status=status), times=None)
    simulator.drop_sockets()
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await assert_whole(client, listener, prompt_id)
    assert refusals.happened > 0
    simulator.faults.clear()
    await simulator.wait_for_sockets()


@pytest.mark.parametrize("timeouts", [QUICK, PINGING], ids=["silence", "ping"])
async def test_a_stalled_socket_is_replaced_and_brings_progress_again(
    simulator: Simulator, client: Client
) -> None:
    simulator.switches.pace = 0.05
    stall = simulator.faults.add(SocketFault("stall", event="progress"))
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.sampled(steps=300))
        await simulator.wait_for_calls(SOCKET, 2)
        listener.received.clear()
        await listener.until("progress")
        await client.post("interrupt", {})
        await listener.until_end(prompt_id)
    assert stall.happened == 1
    await simulator.wait_for_sockets()


async def test_a_new_socket_means_that_every_live_job_is_read_with_one_call(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    never = {"connected_wait": 600.0, "lost_wait": 600.0}
    async with running_proxy(
        simulator, tmp_path / "data", policy=never, timeouts=TALKING, slots=20
    ) as proxy:
        client = Client(session, proxy.url)
        for _ in range(20):
            await client.submit(graphs.waiting())
        await asyncio.sleep(0.05)
        before = simulator.calls.copy()
        simulator.drop_sockets()
        await simulator.wait_for_calls(SOCKET, before[SOCKET] + 1)
        await simulator.wait_for_calls(LIST, before[LIST] + 1)
        await asyncio.sleep(0.05)
        assert simulator.calls[LIST] <= before[LIST] + 2
        assert simulator.calls[DETAIL] == before[DETAIL]


async def test_when_nothing_is_live_the_cloud_is_left_alone(
    simulator: Simulator, client: Client
) -> None:
    entry = await client.run(graphs.plain())
    await client.view(entry["outputs"]["2"]["images"][0])
    simulator.faults.add(SocketFault("refuse"), times=None)
    simulator.drop_sockets()
    await simulator.wait_for_sockets(0)
    calls = simulator.calls.copy()
    await asyncio.sleep(0.3)
    assert set(simulator.calls - calls) <= {SOCKET}


@pytest.mark.parametrize("timeouts", [QUICK], ids=["quick"])
async def test_a_silent_socket_rests_while_nothing_runs(
    simulator: Simulator, client: Client
) -> None:
    await client.run(graphs.plain())
    opened = simulator.calls[SOCKET]
    await asyncio.sleep(0.5)
    assert simulator.calls[SOCKET] == opened


@pytest.mark.parametrize("odd", [{"status": 500}, {"status": 200, "body": "<html>"}, {"cut": 20}])
async def test_without_events_and_lists_jobs_are_read_by_themselves_and_give_their_slots_back(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, odd: dict[str, Any]
) -> None:
    simulator.faults.add(SocketFault("refuse"), times=None)
    lists = simulator.faults.add(HttpFault(LIST, **odd), times=None)
    policy = {"lost_wait": 0.05}
    async with running_proxy(simulator, tmp_path, slots=1, policy=policy) as proxy:
        client = Client(session, proxy.url)
        for prompt_id in [await client.submit(graphs.plain(color)) for color in range(2)]:
            await client.ended(prompt_id)
    assert lists.happened
