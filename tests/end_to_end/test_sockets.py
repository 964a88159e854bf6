"""Who hears what on the websocket, with a real job behind it."""

from __future__ import annotations

import asyncio

import aiohttp
import graphs
from stack import Client, Proxy

from proxy.simulator import Simulator

METADATA = {"supports_preview_metadata": True}


async def test_only_the_submitter_hears_of_a_job(
    session: aiohttp.ClientSession, proxy: Proxy
) -> None:
    mine, other = Client(session, proxy.url), Client(session, proxy.url)
    async with mine.listening() as listener, other.listening() as bystander:
        prompt_id = await mine.submit(graphs.sampled())
        await listener.until_end(prompt_id)
        await bystander.until("status", status={"exec_info": {"queue_remaining": 0}})
    assert {type_ for type_, _ in bystander.received} == {"status"}


async def test_without_a_client_everybody_hears_the_progress_alone(client: Client) -> None:
    async with client.listening(METADATA) as listener:
        _, answer = await client.post("prompt", {"prompt": graphs.sampled()})
        await listener.until("status", status={"exec_info": {"queue_remaining": 0}})
    assert set(listener.types()) == {"progress_state", "progress", "binary"}
    assert all(data["prompt_id"] == answer["prompt_id"] for data in listener.of("progress"))
    assert {frame[:4] for frame in listener.of("binary")} == {b"\x00\x00\x00\x01"}


async def test_a_plain_socket_gets_each_preview_behind_its_progress(client: Client) -> None:
    async with client.listening() as listener:
        await listener.until_end(await client.submit(graphs.sampled(steps=3)))
    steps = [type_ for type_ in listener.types() if type_ in ("progress", "binary")]
    assert steps == ["progress", "binary"] * 3
    assert {frame[:8] for frame in listener.of("binary")} == {b"\0\0\0\x01\0\0\0\x01"}


async def test_a_socket_with_metadata_gets_each_preview_before_its_progress(
    client: Client,
) -> None:
    async with client.listening(METADATA) as listener:
        await listener.until_end(await client.submit(graphs.sampled(steps=3)))
    steps = [type_ for type_ in listener.types() if type_ in ("progress", "binary")]
    assert steps == ["binary", "progress"] * 3


async def test_a_returning_client_learns_the_node_and_hears_the_rest(client: Client) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.waiting(60.0))
        await listener.until("executing", node="2")
    url = (client.url / "ws").with_query(clientId=client.client_id)
    async with client.session.ws_connect(url) as socket:
        first, second = await socket.receive_json(), await socket.receive_json()
        assert first["type"] == "status"
        assert first["data"]["sid"] == client.client_id
        assert second == {"type": "executing", "data": {"node": "2"}}
    async with client.listening() as listener:
        await client.post("interrupt")
        await listener.until_end(prompt_id)


async def test_a_second_socket_with_an_id_takes_over_and_outlives_the_first(
    client: Client,
) -> None:
    async with client.listening() as older:
        url = (client.url / "ws").with_query(clientId=client.client_id)
        async with client.session.ws_connect(url) as socket:
            await socket.receive()
            await older.socket.close()
            prompt_id = await client.submit(graphs.plain())
            async with asyncio.timeout(60):
                while True:
                    message = await socket.receive_json()
                    if message["data"] == {"node": None, "prompt_id": prompt_id}:
                        break


async def test_results_over_the_websocket_arrive_between_their_executing_events(
    client: Client,
) -> None:
    graph = graphs.plain()
    graph["1"]["inputs"]["batch_size"] = 3
    graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    async with client.listening() as listener:
        await listener.until_end(await client.submit(graph))
    current, pictures = None, []
    for type_, data in listener.received:
        if type_ == "executing":
            current = data["node"]
        elif type_ == "binary" and current == "2":
            pictures.append(data[8:])
    assert len(pictures) == 3
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)


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
