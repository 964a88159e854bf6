"""Who hears what on the websocket, with a real job behind it."""

from __future__ import annotations

import asyncio

import aiohttp
import graphs
from stack import Client, Proxy

from proxy.simulator import Simulator

METADATA = {"supports_preview_metadata": True}


async def test_two_jobs_at_once_are_distinguished(
    simulator: Simulator, session: aiohttp.ClientSession, proxy: Proxy
) -> None:
    simulator.account.plan = "creator"
    simulator.switches.pace = 0.02
    clients = [Client(session, proxy.url) for _ in range(3)]

    async def run(client: Client, seed: int) -> int:
        async with client.listening(METADATA) as listener:
            prompt_id = await client.submit(graphs.sampled(seed))
            await listener.until_end(prompt_id)
        texts = [data for _, data in listener.received if isinstance(data, dict)]
        found = {data["prompt_id"] for data in texts if "prompt_id" in data}
        assert found == {prompt_id}
        return len(listener.of("binary"))

    counts = await asyncio.gather(*(run(client, seed) for seed, client in enumerate(clients)))
    assert counts == [3, 3, 3]


async def test_a_waiting_client_is_not_left_in_silence(
    simulator: Simulator, client: Client, proxy: Proxy
) -> None:
    simulator.switches.dispatch = 60.0
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.plain())
        await listener.until("status", status={"exec_info": {"queue_remaining": 1}})
        listener.received.clear()
        await listener.until("status", status={"exec_info": {"queue_remaining": 1}})
        await client.post("queue", {"delete": [prompt_id]})


async def test_one_jobs_end_is_sent_before_the_next_one_begins(
    simulator: Simulator, client: Client
) -> None:
    simulator.switches.late_detail = 0.1
    async with client.listening() as listener:
        prompt_ids = [await client.submit(graphs.plain(color)) for color in range(4)]
        await listener.until_end(prompt_ids[-1])
    found = [
        data["prompt_id"] for type_, data in listener.received if type_ not in ("status", "binary")
    ]
    assert list(dict.fromkeys(found)) == prompt_ids
    assert found == sorted(found, key=prompt_ids.index)


async def test_a_job_can_do_without_previews(client: Client) -> None:
    async with client.listening(METADATA) as listener:
        extra_data = {"preview_method": "none"}
        await listener.until_end(await client.submit(graphs.sampled(), extra_data=extra_data))
    assert listener.of("binary") == []
    assert len(listener.of("progress")) == 3
