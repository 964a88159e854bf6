"""Accounts that are gone or cannot be read any more, and keys that clients lend for their jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
from stack import TIMEOUT, Client, running_proxy

from proxy.cloud import resilience
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator

KEY = "comfyui-0123456789abcdef-of-a-client"


@pytest.fixture
async def simulator(opened: asyncio.Event) -> AsyncIterator[Simulator]:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as running:
        yield running


async def test_a_lent_key_survives_a_restart_and_is_deleted_when_the_job_was_sent(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_proxy(simulator, tmp_path, slots=1) as proxy:
        client = Client(session, proxy.url)
        await gated.running_one(client)
        waiting = await client.submit(graphs.plain(), extra_data={"api_key_comfy_org": KEY})
        assert KEY not in str(await client.get("queue"))
    kept = await asyncio.to_thread(on_disk, tmp_path)
    assert KEY.encode() not in kept
    async with running_proxy(simulator, tmp_path, slots=1) as proxy:
        client = Client(session, proxy.url)
        opened.set()
        assert (await client.ended(waiting))["status"]["completed"] is True
        sent = list(simulator.jobs.values())[1]
        assert sent.extra_data["api_key_comfy_org"] == KEY


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was refused is tried again soon."""
    monkeypatch.setattr(resilience, "REFUSED_KEY_RETRIES", Backoff(0.05, 0.1))


@pytest.mark.usefixtures("short_waits")
async def test_a_job_whose_key_is_revoked_says_so_and_ends_as_lost(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path, policy={"lost_timeout": 1.0}) as proxy:
        client = Client(session, proxy.url)
        prompt_id = await gated.running_one(client)
        simulator.faults.add(HttpFault("GET /api/jobs*", status=401), times=None)
        async with asyncio.timeout(TIMEOUT):
            while "queue_reason" not in (job := (await client.get(f"api/jobs/{prompt_id}"))[1]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (job["status"], job["queue_reason"]) == ("in_progress", "dead_key")
        entry = await client.ended(prompt_id)
        _, error = entry["status"]["messages"][-1]
        assert error["exception_type"] == "JobLost"
        assert "API key" in error["exception_message"]


@pytest.mark.usefixtures("short_waits")
async def test_a_job_that_waits_for_an_account_without_a_key_shows_why_and_fails(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    """The only slot is taken by a job that can no longer be read, so that nothing is sent."""
    policy = {"unable_timeout": 1.0, "lost_timeout": 3600.0}
    async with running_proxy(simulator, tmp_path, policy=policy, slots=1) as proxy:
        client = Client(session, proxy.url)
        running = await gated.running_one(client)
        waiting = await client.submit(graphs.plain())
        fault = simulator.faults.add(HttpFault("GET /api/jobs*", status=401), times=None)
        async with asyncio.timeout(TIMEOUT):
            while "queue_reason" not in (job := (await client.get(f"api/jobs/{waiting}"))[1]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert job["queue_reason"] == "dead_key"
        assert "key" in job["queue_message"]
        [shown] = (await client.get("proxy/api/state"))[1]["waiting"]
        assert shown["reason"] == "the account's key does not work"
        entry = await client.ended(waiting)
        _, error = entry["status"]["messages"][-1]
        assert "key" in error["exception_message"]
        assert (await client.get(f"api/jobs/{running}"))[1]["status"] == "in_progress"
        fault.times = 0
        opened.set()
        assert (await client.ended(running))["status"]["completed"]
