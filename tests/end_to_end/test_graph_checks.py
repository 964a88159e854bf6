"""Graphs that are refused before they go anywhere, over the whole stack."""

from __future__ import annotations

import asyncio

import graphs
from stack import Client, Proxy

from proxy.api.keys import MEMBERS
from proxy.members.member import Limits, Member
from proxy.simulator import Simulator


async def test_a_typing_error_is_refused_at_once_and_the_cloud_hears_nothing_of_it(
    simulator: Simulator, client: Client
) -> None:
    await client.run(graphs.plain())
    submitted = len(simulator.jobs)
    graph = graphs.sampled()
    graph["3"]["inputs"]["sampler_name"] = "eulre"
    status, answer = await client.post("prompt", {"prompt": graph})
    assert status == 400
    assert answer["error"]["type"] == "prompt_outputs_failed_validation"
    (reason,) = answer["node_errors"]["3"]["errors"]
    assert reason["type"] == "value_not_in_list"
    assert len(simulator.jobs) == submitted


async def test_one_reading_of_the_catalog_decides_for_all_graphs_that_wait_for_it(
    simulator: Simulator, client: Client
) -> None:
    await client.run(graphs.plain())
    read = simulator.calls["GET /api/object_info"]
    wrong = ({"1": {"class_type": f"NoSuchNode{number}", "inputs": {}}} for number in range(30))
    answers = await asyncio.gather(*(client.post("prompt", {"prompt": graph}) for graph in wrong))
    assert {status for status, _ in answers} == {400}
    assert simulator.calls["GET /api/object_info"] - read <= 2


async def test_queue_and_history_show_inputs_as_validation_converts_them(client: Client) -> None:
    graph = graphs.plain()
    graph["1"]["inputs"] |= {"width": "64", "color": 7.0, "batch_size": {"__value__": 1}}
    async with client.listening() as listener:
        waiting = await client.submit(graphs.waiting())
        await listener.until("executing", prompt_id=waiting)
        prompt_id = await client.submit(graph)
        (item,) = (await client.get("queue"))[1]["queue_pending"]
        await client.post("interrupt", {"prompt_id": waiting})
        await listener.until_end(prompt_id)
    entry = await client.history(prompt_id)
    for shown in (item, entry["prompt"]):
        inputs = shown[2]["1"]["inputs"]
        assert inputs == {"width": 64, "height": 64, "batch_size": 1, "color": 7}
        assert type(inputs["color"]) is int


async def test_good_outputs_run_beside_bad_ones(client: Client) -> None:
    graph = graphs.plain()
    graph["3"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    async with client.listening() as listener:
        body = {"prompt": graph, "client_id": client.client_id}
        status, answer = await client.post("prompt", body)
        assert status == 200
        assert list(answer["node_errors"]) == ["3"]
        await listener.until_end(answer["prompt_id"])
    entry = await client.history(answer["prompt_id"])
    assert list(entry["outputs"]) == ["2"]
    assert entry["prompt"][4] == ["2"]


async def test_a_member_may_not_use_what_its_limits_deny(proxy: Proxy, client: Client) -> None:
    members = proxy.services[MEMBERS]
    await members.add(Member("anna", limits=Limits(denied_classes=("Save*",))))
    token, _ = await members.new_token("anna")
    client.session.headers["Authorization"] = f"Bearer {token}"
    status, answer = await client.post("prompt", {"prompt": graphs.plain()})
    assert status == 403
    assert answer["error"]["type"] == "node_not_allowed"
    assert list(answer["node_errors"]) == ["2"]
