"""SIGTERM: answers finish, websockets are told, jobs go on on the cloud, and the time is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import graphs
from backend import environment_of
from process import before, serving
from stack import Client

from proxy.simulator import HttpFault, Simulator, SocketFault


async def submitting(client: Client) -> tuple[int, str]:
    """Submit; the status and the type of the error, if there is one."""
    status, answer = await client.post("prompt", {"prompt": graphs.plain()})
    return status, answer.get("error", {}).get("type", "")


async def test_the_end_keeps_its_time_and_all_jobs(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    simulator.faults.add(SocketFault("stall", event="execution_start"))
    async with serving(tmp_path, environment=before(simulator)) as process:
        client = Client(session, process.url)
        async with client.listening() as listener:
            await client.submit(graphs.waiting(0.5))
            (job,) = simulator.jobs
            await simulator.wait_for(job, "executing")
            submission = simulator.calls["POST /api/prompt"] + 1
            simulator.faults.add(HttpFault("POST /api/prompt", delay=0.3))
            answer = asyncio.create_task(submitting(client))
            await simulator.wait_for_calls("POST /api/prompt", submission)
            stopping = asyncio.create_task(process.stop())
            assert await answer == (200, "")
            while not listener.socket.closed:
                await listener.socket.receive()
            # Where other replicas may serve, clients are to connect again.
            several = bool(environment_of(tmp_path))
            assert listener.socket.close_code == (1012 if several else 1001)
        assert await stopping == 0
        assert b"Traceback" not in b"".join(process.said)
    await simulator.wait_for(job, "completed")


async def test_a_submission_that_waits_does_not_hold_the_end(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    simulator.switches.refuse_prompt = "QUEUE_LIMIT"
    async with serving(tmp_path, environment=before(simulator)) as process:
        answer = asyncio.create_task(submitting(Client(session, process.url)))
        await simulator.wait_for_calls("POST /api/prompt")
        assert await process.stop() == 0
        # It is refused, or it is the client's, and goes on with the next start.
        assert await answer in ((503, "stopping"), (200, ""))
    assert simulator.jobs == {}


async def test_a_second_signal_ends_at_once(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    simulator.faults.add(HttpFault("POST /api/prompt", delay=60))
    async with serving(tmp_path, environment=before(simulator)) as process:
        answer = asyncio.create_task(submitting(Client(session, process.url)))
        await simulator.wait_for_calls("POST /api/prompt")
        process.process.terminate()
        async with asyncio.timeout(60):
            while True:
                try:
                    async with session.get(process.url / "healthz"):
                        pass
                except aiohttp.ClientConnectorError:
                    break
        assert await process.stop() != 0
        answer.cancel()
        await asyncio.wait([answer])
