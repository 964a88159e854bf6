"""One job from its first event to its end."""

from __future__ import annotations

import asyncio

import gated
import graphs
from stack import PATIENCE, Client
from waiting import ids, until

from proxy.simulator import Simulator

SUBMIT = "POST /api/prompt"


async def test_a_slot_passes_on_as_soon_as_an_end_is_known(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    simulator.switches.late_detail = 2 * PATIENCE  # the outputs of the first never come
    await client.submit(gated.GRAPH)
    await client.submit(graphs.plain())
    opened.set()
    await until(lambda: simulator.calls[SUBMIT] == 2)


async def test_a_waiting_job_that_is_refused_fails_for_its_client(
    simulator: Simulator, client: Client, opened: asyncio.Event
) -> None:
    async with client.listening() as listener:
        first = await client.submit(gated.GRAPH)
        refused = await client.submit(graphs.plain())
        simulator.switches.refuse_prompt = "PARTNER_NODE_DISABLED"
        opened.set()
        await listener.until_end(first)
        listener.heard.clear()
        await listener.until_end(refused)
    assert [type_ for type_ in listener.types() if type_ != "executing"] == [
        "execution_start",
        "execution_cached",
        "execution_error",
    ]
    (error,) = listener.of("execution_error")
    assert error["exception_type"] == "PARTNER_NODE_DISABLED"
    assert "remove the node" in error["exception_message"]
    status = (await client.history(refused))["status"]
    assert (status["status_str"], status["completed"]) == ("error", False)
    assert await ids(client) == []
