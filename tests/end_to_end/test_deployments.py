"""A deployment as one more account: a workflow with nodes of its own runs there."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import graphs
import pytest
from deployments import Place, framed, stamped, stepped
from PIL import Image
from stack import Client

pytestmark = pytest.mark.usefixtures("short_rests")


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with place.proxy() as (running, _):
        yield running


async def test_a_node_of_its_own_runs_on_the_deployment(client: Client, place: Place) -> None:
    entry = await client.run(framed())
    assert entry["status"]["status_str"] == "success"
    item = entry["outputs"]["3"]["images"][0]
    assert item["filename"] == "ComfyUI_00001_.png"
    data = await client.view(item)
    assert data.startswith(b"\x89PNG")
    assert len(place.deployment.jobs) == 1
    assert not place.simulator.jobs


async def test_what_both_have_runs_on_the_cloud(client: Client, place: Place) -> None:
    await client.run(graphs.plain())
    assert len(place.simulator.jobs) == 1
    assert not place.deployment.jobs


async def test_clients_see_the_nodes_of_both(client: Client) -> None:
    _, classes = await client.get("object_info")
    assert {"AddFrame", "KSampler"} <= classes.keys()


async def test_the_order_of_messages_is_that_of_a_local_server(client: Client) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(stepped())
        await listener.until_end(prompt_id)
    types = listener.types()
    assert types[:2] == ["execution_start", "execution_cached"]
    assert types[-2:] == ["execution_success", "executing"]
    assert types.count("executed") == 1
    assert listener.of("execution_cached")[0]["nodes"] == []
    last = listener.of("progress_state")[-1]["nodes"]
    assert {state["state"] for state in last.values()} == {"finished"}
    assert last.keys() == {"1", "2", "3"}


async def test_a_class_that_no_catalog_has_is_refused_and_costs_nothing(
    client: Client, place: Place
) -> None:
    graph = framed()
    graph["2"]["class_type"] = "Nowhere"
    status, answer = await client.post("prompt", {"prompt": graph})
    assert status == 400
    assert "Nowhere" in str(answer)
    assert place.deployment.workers.billed == 0


async def test_a_file_that_the_member_does_not_have_is_refused_and_costs_nothing(
    client: Client, place: Place
) -> None:
    status, answer = await client.post("prompt", {"prompt": stamped("nowhere.png")})
    assert status == 400
    (error,) = answer["node_errors"]["2"]["errors"]
    assert error["details"] == "stamp - Invalid file: nowhere.png"
    assert {request.method for request in place.deployment.requests} == {"GET"}


async def test_such_a_file_is_refused_while_the_deployment_has_no_slot(place: Place) -> None:
    place.deployment.switches.pace = 0.05
    async with place.proxy(fields={"slots": 1}) as (client, _):
        running = await client.submit(stepped(1000))
        await place.deployment.wait_for("running")
        status, answer = await client.post("prompt", {"prompt": stamped("nowhere.png")})
        assert status == 400
        assert answer["node_errors"].keys() == {"2"}
        await client.post("interrupt", {"prompt_id": running})
        await client.ended(running)


async def test_a_file_that_is_deleted_before_its_job_goes_ends_it_and_costs_nothing(
    place: Place,
) -> None:
    place.deployment.switches.pace = 0.05
    file = place.folder / "inputs" / "cat.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(graphs.png())
    async with place.proxy(fields={"slots": 1}, input_directory=file.parent) as (client, _):
        running = await client.submit(stepped(1000))
        await place.deployment.wait_for("running")
        waiting = await client.submit(stamped("cat.png"))
        file.unlink()
        await client.post("interrupt", {"prompt_id": running})
        entry = await client.ended(waiting)
    kind, error = entry["status"]["messages"][-1]
    assert (kind, error["node_id"]) == ("execution_error", "2")
    assert "Invalid file: cat.png" in error["exception_message"]
    assert len(place.deployment.jobs) == 1


async def test_files_of_the_install_are_not_listed_and_bind_no_job_to_the_deployment(
    place: Place,
) -> None:
    classes = json.loads(place.deployment.object_info)
    classes["LoadImage"]["input"]["required"]["image"][0] = ["cat.png", "none"]
    place.folder.mkdir(exist_ok=True)
    (place.folder / "object_info.json").write_text(json.dumps(classes))
    async with place.proxy() as (client, _):
        _, listed = await client.get("object_info/LoadImage")
        assert listed["LoadImage"]["input"]["required"]["image"][0] == ["none"]
        await client.upload("cat.png", graphs.png())
        await client.run(graphs.inverted("cat.png"))
    assert len(place.simulator.jobs) == 1
    assert not place.deployment.jobs


async def test_an_upload_is_an_asset_by_its_id(client: Client, place: Place) -> None:
    await client.upload("cat.png", graphs.png())
    graph = stamped("cat.png")
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry
    job = next(iter(place.deployment.jobs.values()))
    stamp = job.graph["2"]["inputs"]["stamp"]
    assert stamp["__type"] == "core/ASSET"
    assert entry["prompt"][2]["2"]["inputs"]["stamp"] == "cat.png"


async def test_a_prompt_that_is_also_the_name_of_a_file_stays_a_prompt(
    client: Client, place: Place
) -> None:
    await client.upload("cat.png", graphs.png())
    graph: dict[str, Any] = {**graphs.sampled(text="cat.png"), "20": framed()["2"]}
    graph["20"]["inputs"]["image"] = ["8", 0]
    graph["9"]["inputs"]["images"] = ["20", 0]
    await client.run(graph)
    job = next(iter(place.deployment.jobs.values()))
    assert job.graph["6"]["inputs"]["text"] == "cat.png"


async def test_a_cancelled_run_is_interrupted(client: Client, place: Place) -> None:
    place.deployment.switches.pace = 0.05
    async with client.listening() as listener:
        prompt_id = await client.submit(stepped(1000))
        await listener.until("progress", node="2")
        await client.post("interrupt", {"prompt_id": prompt_id})
        await listener.until_end(prompt_id)
    assert listener.of("execution_interrupted")[0]["node_id"] == "2"
    assert place.deployment.jobs[next(iter(place.deployment.jobs))].status == "canceled"


async def test_a_deployment_that_starts_keeps_jobs_waiting(place: Place) -> None:
    place.deployment.switches.state = "starting"
    async with place.proxy() as (client, _):
        prompt_id = await client.submit(framed())
        _, waiting = await client.get(f"api/jobs/{prompt_id}")
        assert waiting["queue_reason"] == "starting"
        assert waiting["queue_message"] == "studio is starting"
        place.deployment.switches.state = "ready"
        entry = await client.ended(prompt_id)
    assert entry["status"]["status_str"] == "success"


async def test_a_stopped_deployment_refuses_with_what_to_do(place: Place) -> None:
    place.deployment.switches.state = "stopped"
    async with place.proxy() as (client, _):
        status, answer = await client.post("prompt", {"prompt": framed()})
    assert status >= 400
    assert "start it on platform.comfy.org" in answer["error"]["message"]


async def test_a_lost_answer_is_found_by_the_label(place: Place) -> None:
    place.deployment.switches.lose_answers = 1
    async with place.proxy() as (client, _):
        entry = await client.run(framed())
    assert entry["status"]["status_str"] == "success"
    assert len(place.deployment.jobs) == 1


async def test_a_lost_answer_is_found_where_labels_were_refused_before_a_restart(
    place: Place,
) -> None:
    switches = place.deployment.switches
    switches.labels = False
    async with place.proxy() as (client, _):
        await client.run(framed())
    switches.labels, switches.lose_answers = True, 1
    async with place.proxy() as (client, _):
        entry = await client.run(framed(0x00FF00))
    assert entry["status"]["status_str"] == "success"
    assert len(place.deployment.jobs) == 2


async def test_without_labels_a_lost_job_ends_as_lost_and_is_not_sent_again(place: Place) -> None:
    switches = place.deployment.switches
    switches.labels, switches.lose_answers = False, 1
    async with place.proxy() as (client, _):
        status, answer = await client.post("prompt", {"prompt": framed()})
        assert status >= 400
        assert "may have run" in answer["error"]["message"]
    assert len(place.deployment.jobs) == 1


async def test_an_input_that_has_expired_is_uploaded_again(client: Client, place: Place) -> None:
    await client.upload("cat.png", graphs.png())
    graph = stamped("cat.png")
    await client.run(graph)
    assets = place.deployment.workers.assets
    for id_ in [id_ for id_, asset in assets.items() if asset.job_id is None]:
        del assets[id_]
    graph["3"]["inputs"]["filename_prefix"] = "again"
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success"


async def test_a_reference_of_a_client_is_refused(client: Client, place: Place) -> None:
    graph = framed()
    stamp = {"__type": "core/ASSET", "info": {"id": "of-another-member"}}
    graph["2"] = {"class_type": "StampPicture", "inputs": {"image": ["1", 0], "stamp": stamp}}
    status, _ = await client.post("prompt", {"prompt": graph})
    assert status == 400
    assert not place.deployment.jobs


async def test_an_output_can_be_an_input(client: Client, place: Place) -> None:
    entry = await client.run(framed())
    item = entry["outputs"]["3"]["images"][0]
    graph = framed()
    name = f"{item['filename']} [output]"
    graph["2"] = {"class_type": "StampPicture", "inputs": {"image": ["1", 0], "stamp": name}}
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "success", entry


async def test_a_picture_has_the_workflow_that_the_deployment_was_not_told(
    client: Client, place: Place
) -> None:
    workflow = {"id": "w", "nodes": [{"title": "é"}]}
    entry = await client.run(framed(), extra_data={"extra_pnginfo": {"workflow": workflow}})
    data = await client.view(entry["outputs"]["3"]["images"][0])
    picture = Image.open(io.BytesIO(data))
    picture.load()
    assert json.loads(picture.text["workflow"]) == workflow  # type: ignore[attr-defined]
    job = next(iter(place.deployment.jobs.values()))
    assert job.extra_data.keys() <= {"api_key_comfy_org"}
