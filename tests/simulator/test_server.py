"""Start, stop and the record."""

from __future__ import annotations

import asyncio
import os
import signal

import aiohttp
import pytest
from graphs import plain, waiting
from process import TIMEOUT, child
from simulator.visitor import Visitor

from proxy.simulator import Simulator
from proxy.simulator.__main__ import main


async def test_a_stop_ends_jobs_and_sockets_and_frees_the_port() -> None:
    sim = Simulator(key="canary")
    await sim.start()
    port = sim.base_url.port
    async with aiohttp.ClientSession() as session:
        visitor = Visitor(sim, session, sim.key)
        ears = await visitor.listen()
        await visitor.submit(waiting())
        await visitor.submit(plain())
        await ears.until("executing")
        stopping = asyncio.create_task(sim.stop())
        while await ears.next() is not None:
            pass
        assert ears.socket.close_code == 1001
        await stopping
    assert port is not None
    again = Simulator(key="canary")
    await again.start(port=port)
    await again.stop()


async def test_it_goes_on_after_a_stop_with_what_it_knew() -> None:
    sim = Simulator()
    async with aiohttp.ClientSession() as session:
        visitor = Visitor(sim, session, sim.key)
        async with sim:
            detail = await visitor.run(plain())
        async with sim:
            assert (await visitor.get(f"/api/jobs/{detail['id']}")).json == detail


async def test_requests_are_recorded_without_their_credentials(
    sim: Simulator, visitor: Visitor
) -> None:
    await visitor.get("/api/user", token=visitor.key, x="1")
    (record,) = sim.requests
    assert (record.method, record.path, record.status) == ("GET", "/api/user", 200)
    assert record.credentials == ("X-API-Key", "token")
    assert record.query == {"x": "1"}
    assert visitor.key not in repr(record)


@pytest.mark.parametrize("account", ["other=gold", "=pro", "canary=pro"])
def test_a_wrong_account_ends_with_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    monkeypatch.setenv("COMFY_CLOUD_API_KEY", "canary")
    assert main(["--account", account]) == 2
    assert capsys.readouterr().err.count("\n") == 1


async def test_it_runs_in_a_process_of_its_own() -> None:
    words = ("-m", "proxy.simulator", "--plan", "pro", "--account", "other=creator")
    environment = {**os.environ, "COMFY_CLOUD_API_KEY": "canary"}
    async with child(*words, environment=environment, errors=False) as process:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode().split()
        assert line[:2] == ["listening", "on"]
        async with aiohttp.ClientSession() as session:
            for key, status in (("canary", 200), ("other", 200), ("wrong", 401)):
                headers = {"X-API-Key": key}
                async with session.get(f"{line[2]}/api/user", headers=headers) as answer:
                    assert answer.status == status
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), TIMEOUT) == 0
