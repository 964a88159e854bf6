"""`POST /proxy/api/validate` says what `POST /prompt` would, and submits nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import Client, Proxy

from proxy.api.keys import MEMBERS
from proxy.members.member import Limits, Member
from proxy.simulator import Simulator

VALIDATE = "proxy/api/validate"
DRAWING = json.loads((Path(__file__).parents[1] / "browser" / "workflow.json").read_text())


async def validated(client: Client, **body: Any) -> dict[str, Any]:
    status, found = await client.post(VALIDATE, body)
    assert status == 200
    return dict(found)


async def test_a_good_graph_is_valid_with_its_cost_and_goes_nowhere(
    simulator: Simulator, client: Client
) -> None:
    found = await validated(client, prompt=graphs.plain())
    assert (found["valid"], found["status"], found["error"]) == (True, 200, None)
    assert found["node_errors"] == {}
    assert found["prompt"] is None
    assert found["cost"] == {
        "credits": 2.7,
        "source": "estimated",
        "parts": [{"class": "", "nodes": 0, "credits": 2.7, "source": "estimated"}],
    }
    assert len(simulator.jobs) == 0
    assert (await client.get("queue"))[1] == {"queue_running": [], "queue_pending": []}


WRONG: dict[str, Any] = {
    "a class": {"1": {"class_type": "NoSuchNode", "inputs": {}}},
    "an input": {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}},
    "one of two outputs": {**graphs.plain(), "3": {"class_type": "SaveImage", "inputs": {}}},
    "inputs": {**graphs.plain(), "3": {"class_type": "EmptyImage", "inputs": []}},
    "nodes": {"1": 5},
    "the graph": [],
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_wrong_is_told_as_a_submission_tells_it(client: Client, what: str) -> None:
    found = await validated(client, prompt=WRONG[what])
    status, answer = await client.post("prompt", {"prompt": WRONG[what]})
    assert found["status"] == status
    assert found["valid"] is (status == 200)
    assert found["error"] == answer.get("error")
    assert found["node_errors"] == answer["node_errors"]


async def test_a_file_of_the_editor_is_returned_in_api_format(client: Client) -> None:
    found = await validated(client, prompt=DRAWING)
    assert found["prompt"]
    assert all("class_type" in node for node in found["prompt"].values())
    assert found["status"] == (await client.post("prompt", {"prompt": found["prompt"]}))[0]


async def test_a_file_that_cannot_be_converted_says_why(client: Client) -> None:
    found = await validated(client, prompt={"nodes": [{"type": "SaveImage"}]})
    assert (found["valid"], found["status"]) == (False, 400)
    assert found["error"]["type"] == "invalid_workflow"
    assert "damaged" in found["error"]["message"]


async def test_a_job_beyond_a_budget_is_refused_with_its_cost(proxy: Proxy, client: Client) -> None:
    members = proxy.services[MEMBERS]
    await members.add(Member("anna", limits=Limits(credits_per_day=1)))
    token, _ = await members.new_token("anna")
    client.session.headers["Authorization"] = f"Bearer {token}"
    found = await validated(client, prompt=graphs.plain())
    status, answer = await client.post("prompt", {"prompt": graphs.plain()})
    assert (found["valid"], found["status"]) == (False, status) == (False, 429)
    assert found["error"]["type"] == answer["error"]["type"]
    assert found["cost"]["credits"] == 2.7


CONVERT = "workflow/convert"


async def test_a_file_of_the_editor_is_converted_and_runs(client: Client) -> None:
    for body in (DRAWING, {"prompt": DRAWING}):
        status, refused = await client.post("prompt", body)
        assert (status, refused["error"]["type"]) == (400, "invalid_prompt")
        assert f"POST /{CONVERT}" in refused["error"]["message"]
    status, graph = await client.post(CONVERT, DRAWING)
    assert (status, graph) == (200, (await validated(client, prompt=DRAWING))["prompt"])
    assert await client.post(CONVERT, graph) == (200, graph)
    form = aiohttp.FormData()
    form.add_field("image", graphs.png(), filename="sketch.png")
    async with client.session.post(client.url / "upload/image", data=form) as uploaded:
        assert uploaded.status == 200
    await client.run(graph)


async def test_what_cannot_be_converted_is_told_as_the_pack_tells_it(client: Client) -> None:
    for body in ({}, {"nodes": 5}, {"nodes": [{"type": "SaveImage"}]}, []):
        status, answer = await client.post(CONVERT, body)
        assert (status, list(answer)) == (400, ["error"])
    assert (await client.get(CONVERT))[1]["name"] == "ComfyUI Workflow to API Converter"
