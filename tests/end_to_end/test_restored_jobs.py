"""Jobs that waited in a backup: after it was restored they run when an admin says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
from stack import Client, running_proxy
from waiting import until

from proxy.simulator import Simulator
from proxy.storage.backup import backup, restore

pytestmark = pytest.mark.sqlite

SUBMIT = "POST /api/prompt"


@asynccontextmanager
async def served(simulator: Simulator, folder: Path) -> AsyncIterator[Client]:
    async with (
        running_proxy(simulator, folder, slots=1) as proxy,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, proxy.url)


async def restored_job(simulator: Simulator, opened: asyncio.Event, folder: Path) -> str:
    """Restore a backup with a job that waited, and that has run since."""
    copy = folder.with_name("copy.tar")
    async with served(simulator, folder) as client:
        running = await gated.running_one(client)
        waits = await client.submit(graphs.plain())
        await asyncio.to_thread(backup, folder, copy)
        opened.set()
        for job in (running, waits):
            await client.ended(job)
    assert (await asyncio.to_thread(restore, copy, folder)).held == 1
    return waits


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_restored_job_runs_again_only_when_it_is_released(
    tmp_path: Path, *, cancelled: bool
) -> None:
    opened, folder = asyncio.Event(), tmp_path / "data"
    async with Simulator(extra_nodes=[gated.gate(opened)]) as simulator:
        waits = await restored_job(simulator, opened, folder)
        before = simulator.calls[SUBMIT]
        async with served(simulator, folder) as client:
            await client.run(graphs.plain(2))  # new jobs run, also of the same client
            assert simulator.calls[SUBMIT] == before + 1
            shown = (await client.get(f"api/jobs/{waits}"))[1]
            assert shown["queue_reason"] == "restored"
            assert "comfy-cloud-proxy jobs release" in shown["queue_message"]
            assert (await client.get("proxy/api/state"))[1]["counts"]["held"] == 1

            async def is_gone() -> bool:
                return (await client.get("proxy/api/state"))[1]["counts"]["held"] == 0

            if cancelled:
                await client.post("proxy/api/jobs/cancel", {"member": "local", "id": waits})
                await until(is_gone)
            answer = await client.post("proxy/api/jobs/release")
            assert answer == (200, {"released": 0 if cancelled else 1})
            await until(is_gone)
            if not cancelled:
                assert (await client.ended(waits))["status"]["status_str"] == "success"
            assert simulator.calls[SUBMIT] == before + (1 if cancelled else 2)
