"""Graphs that are refused before they go anywhere, over the whole stack."""

from __future__ import annotations

import graphs
from stack import Client

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
