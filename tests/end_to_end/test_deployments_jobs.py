"""What a local client sees of a job on a deployment: its messages, its queue and its history."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import graphs
import pytest
from aiohttp import web
from deployments import Place, framed, stepped
from stack import Client
from structlog.testing import capture_logs

from proxy.simulator.deployment.server import ApiError
from proxy.simulator.deployment.state import DeploymentJob

PREVIEWS = {"supports_preview_metadata": True}


@pytest.fixture
async def client(place: Place) -> Any:
    async with place.proxy() as (running, _):
        yield running


def only_job(place: Place) -> DeploymentJob:
    """The only job of the deployment."""
    (job,) = place.deployment.jobs.values()
    return job


def after_a_frame(node: dict[str, Any]) -> dict[str, Any]:
    """An own node with another one behind it."""
    return {**framed(), "4": node}


# --- submissions ---------------------------------------------------------------------------


async def test_the_id_of_a_job_is_the_proxys_and_the_deployment_has_another(
    client: Client, place: Place
) -> None:
    wanted = str(uuid4())
    assert await client.submit(framed(), prompt_id=wanted) == wanted
    entry = await client.ended(wanted)
    assert entry["prompt"][:2] == [0, wanted]
    assert wanted not in place.deployment.jobs


async def test_missing_inputs_are_refused_by_node_and_cost_nothing(
    client: Client, place: Place
) -> None:
    graph = framed()
    del graph["2"]["inputs"]["width"]
    status, answer = await client.post("prompt", {"prompt": graph})
    assert status == 400
    (error,) = answer["node_errors"]["2"]["errors"]
    assert error["type"] == "required_input_missing"
    assert place.deployment.workers.billed == 0


async def test_of_a_graph_that_is_valid_in_part_that_part_runs_and_the_rest_is_told(
    client: Client, place: Place
) -> None:
    wrong = {"class_type": "AddFrame", "inputs": {"image": ["1", 0], "color": "gold"}}
    saved = {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "x"}}
    status, answer = await client.post("prompt", {"prompt": {**framed(), "4": wrong, "5": saved}})
    assert status == 200
    assert answer["node_errors"].keys() == {"4"}
    await client.ended(answer["prompt_id"])
    assert only_job(place).graph.keys() == {"1", "2", "3"}


# --- the queue -----------------------------------------------------------------------------


async def test_the_queue_is_the_proxys_also_for_jobs_in_the_deployments_own(place: Place) -> None:
    place.deployment.switches.workers, place.deployment.switches.pace = 1, 0.05
    async with place.proxy() as (client, _):
        running = await client.submit(stepped(1000))
        await place.deployment.wait_for("running")
        waiting = await client.submit(stepped(1000, 2))
        await place.deployment.wait_for("queued")
        _, queue = await client.get("queue")
        assert [item[1] for item in queue["queue_running"]] == [running]
        assert [item[1] for item in queue["queue_pending"]] == [waiting]
        _, status = await client.get("prompt")
        assert status["exec_info"]["queue_remaining"] == 2


async def test_a_job_that_is_deleted_from_the_queue_is_cancelled_without_a_trace(
    place: Place,
) -> None:
    place.deployment.switches.workers, place.deployment.switches.pace = 1, 0.05
    async with place.proxy() as (client, _):
        await client.submit(stepped(1000))
        await place.deployment.wait_for("running")
        waiting = await client.submit(stepped(1000, 2))
        await place.deployment.wait_for("queued")
        await client.post("queue", {"delete": [waiting]})
        await place.deployment.wait_for("canceled")
        _, queue = await client.get("queue")
        assert queue["queue_pending"] == []
        _, history = await client.get("history")
        assert history == {}


async def test_the_order_of_jobs_that_were_not_sent_can_be_changed(place: Place) -> None:
    place.deployment.switches.pace = 0.05
    async with place.proxy(fields={"slots": 1}) as (client, _):
        running = await client.submit(stepped(1000, 1))
        await place.deployment.wait_for("running")
        later = await client.submit(framed(2))
        front = await client.submit(framed(3), front=True)
        await client.post("interrupt", {"prompt_id": running})
        await client.ended(later)
        await client.ended(front)
    colors = [job.graph["1"]["inputs"]["color"] for job in place.deployment.jobs.values()]
    assert colors == [1, 3, 2]


# --- messages ------------------------------------------------------------------------------


async def test_states_are_those_of_nodes_that_were_seen_while_it_runs(
    client: Client, place: Place
) -> None:
    place.deployment.switches.pace = 0.05
    async with client.listening() as listener:
        prompt_id = await client.submit(stepped(10))
        await listener.until_end(prompt_id)
    running = [
        data["nodes"]["2"]
        for data in listener.of("progress_state")
        if data["nodes"].get("2", {}).get("state") == "running"
    ]
    assert {state["max"] for state in running} >= {10}
    steps = [state["value"] for state in running if state["max"] == 10]
    assert steps == sorted(steps)
    early = [data["nodes"] for data in listener.of("progress_state")][:-1]
    assert all("3" not in nodes or "2" in nodes for nodes in early)


async def test_previews_are_binary_messages_of_both_forms(client: Client, place: Place) -> None:
    place.deployment.switches.pace = 0.05
    graph = graphs.sampled(steps=20)
    graph["20"] = {**framed()["2"], "inputs": {"image": ["8", 0], "width": 8, "color": "gold"}}
    graph["9"]["inputs"]["images"] = ["20", 0]
    async with client.listening() as plain, client.listening(PREVIEWS, client_id="b") as wise:
        first = await client.submit(graph)
        await plain.until_end(first)
        second = await Client(client.session, client.url, "b").submit(
            {**graph, "3": {**graph["3"], "inputs": {**graph["3"]["inputs"], "seed": 2}}}
        )
        await wise.until_end(second)
    old = [data for data in plain.of("binary") if data[:4] == b"\0\0\0\1"]
    assert old
    assert {data[8:10] for data in old} == {b"\xff\xd8"}
    new = [data for data in wise.of("binary") if data[:4] == b"\0\0\0\4"]
    assert new
    about = json.loads(new[-1][8 : 8 + int.from_bytes(new[-1][4:8])])
    assert (about["node_id"], about["display_node_id"], about["prompt_id"]) == ("3", "3", second)


@pytest.mark.parametrize("settings", [{"cloud": False}, {}])
async def test_pictures_over_the_websocket_come_from_a_file(
    place: Place, settings: dict[str, Any]
) -> None:
    graph = framed()
    graph["3"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2", 0]}}
    async with place.proxy(**settings) as (client, _), client.listening() as listener:
        prompt_id = await client.submit(graph)
        await listener.until_end(prompt_id)
    (picture,) = listener.of("binary")
    assert picture[8:].startswith(b"\x89PNG")
    assert only_job(place).graph["3"]["class_type"] == "PreviewImage"


async def test_values_of_output_nodes_are_not_made_up_and_the_log_names_their_nodes(
    client: Client, place: Place
) -> None:
    measured = {"class_type": "MeasureFrame", "inputs": {"image": ["2", 0]}}
    with capture_logs() as lines:
        entry = await client.run(after_a_frame(measured))
    assert entry["outputs"].keys() == {"3"}
    (line,) = [line for line in lines if line["event"] == "outputs_omitted"]
    assert line["nodes"] == ["4"]
    assert place.deployment.workers.billed == 1


# --- ends ----------------------------------------------------------------------------------


async def test_a_failure_tells_what_ran_and_with_which_inputs(client: Client) -> None:
    raising = {
        "class_type": "SimulatorRaise",
        "inputs": {"value": ["2", 0], "kind": "ValueError", "message": "boom"},
    }
    graph = after_a_frame(raising)
    graph["3"]["inputs"]["images"] = ["4", 0]
    entry = await client.run(graph)
    kind, error = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert (error["node_id"], error["node_type"]) == ("4", "SimulatorRaise")
    assert error["exception_type"].rpartition(".")[2] == "ValueError"
    assert "boom" in error["exception_message"]
    assert error["current_inputs"]["message"] == ["boom"]
    assert set(error["executed"]) <= {"1", "2"}
    assert error["current_outputs"] == []


async def test_a_cancelled_run_of_which_nothing_was_seen_names_the_first_node(
    place: Place,
) -> None:
    switches = place.deployment.switches
    switches.pace, switches.streaming, switches.polled_progress = 0.05, False, False
    async with place.proxy() as (client, _), client.listening() as listener:
        prompt_id = await client.submit(stepped(1000))
        await listener.until("execution_start")
        await client.post("interrupt", {"prompt_id": prompt_id})
        await listener.until_end(prompt_id)
    (error,) = listener.of("execution_interrupted")
    assert (error["node_id"], error["node_type"]) == ("1", "EmptyImage")


@pytest.mark.parametrize("form", ["json", "text"])
async def test_a_job_that_the_deployment_does_not_know_any_more_ends_with_its_name(
    client: Client, place: Place, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(_: web.Request) -> DeploymentJob:
        if form == "json":
            raise ApiError(404, "job_not_found", "There is no such job.")
        raise web.HTTPNotFound(text="404 page not found")

    place.deployment.switches.pace = 1000.0
    async with client.listening() as listener:
        prompt_id = await client.submit(stepped())
        await place.deployment.wait_for("running")
        monkeypatch.setattr(place.deployment, "_find", find)
        await listener.until_end(prompt_id)
    (error,) = listener.of("execution_error")
    assert error["exception_message"] == "The deployment studio no longer has this job."


# --- the history ---------------------------------------------------------------------------


async def test_the_history_has_the_graph_and_what_its_nodes_show(client: Client) -> None:
    entry = await client.run(framed())
    assert entry["prompt"][2] == framed()
    assert entry["prompt"][4] == ["3"]
    assert entry["meta"] == {
        "3": {"node_id": "3", "display_node": "3", "parent_node": None, "real_node_id": "3"}
    }
    types = [type_ for type_, _ in entry["status"]["messages"]]
    assert types == ["execution_start", "execution_cached", "execution_success"]


async def test_a_job_is_found_again_after_a_restart(place: Place) -> None:
    place.deployment.switches.pace = 0.05
    async with place.proxy() as (client, _):
        prompt_id = await client.submit(stepped(40))
        await place.deployment.wait_for("running")
    async with place.proxy() as (client, _):
        entry = await client.ended(prompt_id)
    assert entry["status"]["status_str"] == "success"
    assert len(place.deployment.jobs) == 1


async def test_what_a_job_has_cost_is_not_made_up(place: Place) -> None:
    async with place.proxy() as (client, _):
        entry = await client.run(framed())
        _, job = await client.get(f"api/jobs/{entry['prompt'][1]}")
    assert not [name for name in job if "cost" in name or "credits" in name]
