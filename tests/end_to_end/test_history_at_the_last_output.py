"""Programs that read the history when they have the last output, as a local server allows."""

from __future__ import annotations

import asyncio

import graphs
import pytest
from stack import Client, Proxy
from waiting import until

from proxy.api.keys import JOBS
from proxy.jobs import service
from proxy.simulator import Simulator

#: Longer than any test: the cloud reports the end, and does not give the job's detail.
LONG = 60.0


@pytest.mark.parametrize("form", ["in_progress", "no_outputs"])
@pytest.mark.parametrize("late", [0.0, 0.5])
async def test_the_entry_is_there_when_the_last_output_is_sent(
    simulator: Simulator, client: Client, form: str, late: float
) -> None:
    simulator.switches.update({"late_detail": late, "late_detail_form": form})
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.plain())
        await listener.until("executed", node="2")
        assert (await client.history(prompt_id))["outputs"].keys() == {"2"}


async def test_an_entry_that_does_not_come_is_given_up(
    simulator: Simulator, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HISTORY_TIMEOUT", 0.1)
    simulator.switches.late_detail = LONG
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.plain())
        await listener.until("executed", node="2")
        assert await client.get(f"history/{prompt_id}") == (200, {})


async def test_a_job_with_outputs_to_come_is_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HISTORY_TIMEOUT", LONG)
    first = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    two = {"7": first, **graphs.waiting(LONG)}
    async with client.listening() as listener:
        prompt_id = await client.submit(two)
        await listener.until("executed", node="7")
        assert await client.get(f"history/{prompt_id}") == (200, {})
        await client.post("interrupt")
        await listener.until_end(prompt_id)


async def test_a_client_that_goes_away_is_waited_for_no_longer(
    simulator: Simulator, proxy: Proxy, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HISTORY_TIMEOUT", LONG)
    simulator.switches.late_detail = LONG
    waiting = proxy.services[JOBS].history._waiting
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.plain())
        await listener.until("executed", node="2")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.get(f"history/{prompt_id}")
        await until(lambda: not waiting)
