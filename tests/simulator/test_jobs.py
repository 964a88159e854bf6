"""What is told about jobs."""

from __future__ import annotations

import json
import uuid

import pytest
from graphs import plain, raising, waiting
from simulator.visitor import Visitor

from proxy.simulator import JobFault, Simulator

NOBODY = str(uuid.UUID(int=1))


async def test_raw_states_are_returned_by_the_singular_route(
    sim: Simulator, visitor: Visitor
) -> None:
    job_id = await visitor.submit(plain())
    job = await sim.wait_for(job_id, "completed")
    assert job.states == ["submitted", "preparing", "executing", "executed", "success"]
    status = (await visitor.get(f"/api/job/{job_id}/status")).json
    assert status["status"] == "success"
    assert status["created_at"].endswith("Z")
    sim.switches.raw_statuses = False
    assert (await visitor.get(f"/api/job/{job_id}/status")).json["status"] == "completed"


async def test_states_before_execution_have_their_time(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.update({"capacity_wait": 1.0, "dispatch": 1.0})
    job_id = await visitor.submit(plain())
    await sim.wait_for(job_id, "queued_waiting")
    detail = (await visitor.get(f"/api/jobs/{job_id}")).json
    assert (detail["status"], detail["queue_reason"]) == ("pending", "capacity")
    await sim.wait_for(job_id, "preparing")
    assert (await visitor.get(f"/api/jobs/{job_id}")).json["status"] == "pending"


async def test_a_detail_has_outputs_status_meta_and_workflow(visitor: Visitor) -> None:
    detail = await visitor.run(
        plain(), extra_data={"api_key_comfy_org": "secret", "extra_pnginfo": {"workflow": {}}}
    )
    assert detail["status"] == "completed"
    assert "priority" not in detail
    (item,) = detail["outputs"]["2"]["images"]
    assert item["display_name"] == "ComfyUI_00001_.png"
    assert detail["preview_output"] == {**item, "nodeId": "2", "mediaType": "images"}
    assert detail["execution_status"]["status_str"] == "success"
    assert detail["execution_meta"]["2"]["display_node"] == "2"
    assert detail["workflow"]["prompt"] == plain()
    assert detail["workflow"]["extra_data"]["api_key_comfy_org"] == "[REDACTED]"
    assert detail["queue_reason"] is None


async def test_a_job_that_has_not_ended_shows_no_outputs(sim: Simulator, visitor: Visitor) -> None:
    job_id = await visitor.submit(waiting())
    await sim.wait_for(job_id, "executing")
    detail = (await visitor.get(f"/api/jobs/{job_id}")).json
    assert detail["status"] == "in_progress"
    assert not {"outputs", "outputs_count", "execution_start_time"} & set(detail)


async def test_ids_that_name_no_job(visitor: Visitor) -> None:
    for path in ("/api/jobs/{}", "/api/job/{}/status", "/api/jobs/{}/assets"):
        assert (await visitor.get(path.format(NOBODY))).code == "NOT_FOUND"
        assert (await visitor.get(path.format("abc"))).status == 400


async def test_a_failure_is_an_object_or_a_json_text(sim: Simulator, visitor: Visitor) -> None:
    detail = await visitor.run(raising(), "error")
    error = detail["execution_error"]
    assert detail["status"] == "failed"
    assert error["node_type"] == "SimulatorRaise"
    assert isinstance(error["current_outputs"], dict)
    assert isinstance(error["traceback"], list)
    sim.switches.error_detail = "string"
    other = (await visitor.get(f"/api/jobs/{detail['id']}")).json
    assert "execution_error" not in other
    assert json.loads(other["error_message"]) == error
    status = (await visitor.get(f"/api/job/{detail['id']}/status")).json
    assert json.loads(status["error_message"]) == error


async def test_failed_comes_before_the_run_has_settled(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.settle = 1.0
    job_id = await visitor.submit(raising())
    await sim.wait_for(job_id, "erroring")
    detail = (await visitor.get(f"/api/jobs/{job_id}")).json
    assert detail["status"] == "failed"
    assert "execution_end_time" not in detail
    await sim.wait_for(job_id, "error")


async def test_times_may_be_seconds(sim: Simulator, visitor: Visitor) -> None:
    detail = await visitor.run(plain())
    assert detail["create_time"] > 1e12
    sim.switches.create_time = "s"
    other = (await visitor.get(f"/api/jobs/{detail['id']}")).json
    assert other["create_time"] == detail["create_time"] // 1000
    assert other["execution_end_time"] == detail["execution_end_time"]


async def test_the_detail_may_come_late(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.late_detail = 1.0
    ears = await visitor.listen()
    job_id = await visitor.submit(plain())
    await ears.until("execution_success", prompt_id=job_id)
    assert (await visitor.get(f"/api/jobs/{job_id}")).json["status"] == "in_progress"
    assert (await visitor.get(f"/api/history_v2/{job_id}")).status == 404
    await sim.wait_for(job_id, "completed")
    assert (await visitor.get(f"/api/jobs/{job_id}")).json["outputs"]


async def test_or_say_completed_without_outputs(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.update({"late_detail": 1.0, "late_detail_form": "no_outputs"})
    detail = await visitor.run(plain())
    assert detail["status"] == "completed"
    assert "outputs" not in detail
    await sim.wait_for_end(detail["id"])
    assert (await visitor.get(f"/api/jobs/{detail['id']}")).json["outputs"]


async def test_lists_are_newest_first_and_filtered(sim: Simulator, visitor: Visitor) -> None:
    first = (await visitor.run(plain(), workflow_id="w1"))["id"]
    extra = {"extra_pnginfo": {"workflow": {"id": "w2"}}}
    second = (await visitor.run(raising(), "error", extra_data=extra))["id"]

    async def ids(**query: str) -> list[str]:
        return [job["id"] for job in (await visitor.get("/api/jobs", **query)).json["jobs"]]

    assert await ids() == [second, first]
    assert await ids(sort_order="asc") == [first, second]
    assert await ids(status="completed,pending") == [first]
    assert await ids(workflow_id="w2") == [second]
    assert await ids(output_type="image") == [first]
    assert await ids(output_type="video") == []
    assert set(await ids(sort_by="execution_time")) == {first, second}


@pytest.mark.parametrize(
    "query",
    [
        {"status": "running"},
        {"sort_by": "created_at"},
        {"sort_order": "up"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "x"},
        {"offset": "-1"},
        {"after": "???"},
        {"after": "MQ==", "sort_by": "execution_time"},
    ],
)
async def test_strange_queries_are_400(visitor: Visitor, query: dict[str, str]) -> None:
    assert (await visitor.get("/api/jobs", **query)).code == "BAD_REQUEST"


async def test_pages_follow_a_cursor(visitor: Visitor) -> None:
    ids = [(await visitor.run(plain(n)))["id"] for n in range(3)]
    page = (await visitor.get("/api/jobs", limit=2)).json
    assert page["pagination"]["total"] == 3
    assert page["pagination"]["has_more"] is True
    rest = (await visitor.get("/api/jobs", limit=2, after=page["pagination"]["next_cursor"])).json
    assert [job["id"] for job in page["jobs"] + rest["jobs"]] == ids[::-1]
    assert rest["pagination"] == {"offset": 0, "limit": 2, "total": 0, "has_more": False}
    offset = (await visitor.get("/api/jobs", limit=2, offset=2)).json
    assert [job["id"] for job in offset["jobs"]] == ids[:1]


async def test_the_history_has_objects_and_no_names(sim: Simulator, visitor: Visitor) -> None:
    extra = {"extra_pnginfo": {"workflow": {}}, "mark": 1, "api_key_comfy_org": "secret"}
    ids = [(await visitor.run(plain(n), extra_data=extra))["id"] for n in range(2)]
    history = (await visitor.get("/api/history_v2")).json["history"]
    assert [entry["prompt_id"] for entry in history] == ids[::-1]
    assert (await visitor.get("/api/history_v2", max_items=1, offset=1)).json["history"] == [
        history[1]
    ]
    detail = (await visitor.get(f"/api/history_v2/{ids[0]}")).json[ids[0]]
    assert detail["prompt"]["prompt"] == plain(0)
    assert detail["prompt"]["outputs_to_execute"] == ["2"]
    for prompt in (detail["prompt"], history[1]["prompt"]):
        assert prompt["extra_data"] == {"mark": 1, "api_key_comfy_org": "[REDACTED]"}
    assert set(detail["outputs"]["2"]["images"][0]) == {"filename", "subfolder", "type"}


async def test_the_history_forgets(visitor: Visitor) -> None:
    ids = [(await visitor.run(plain(n)))["id"] for n in range(3)]
    assert (await visitor.post("/api/history", {"delete": [ids[0], NOBODY]})).body == b""
    assert len((await visitor.get("/api/history_v2")).json["history"]) == 2
    await visitor.post("/api/history", {"clear": True})
    assert (await visitor.get("/api/history_v2")).json == {"history": []}


async def test_assets_of_a_job_tell_hash_and_name(visitor: Visitor) -> None:
    detail = await visitor.run(plain())
    answer = (await visitor.get(f"/api/jobs/{detail['id']}/assets")).json
    (asset,) = answer["assets"]
    assert asset["name"] == "ComfyUI_00001_.png"
    assert detail["preview_output"]["filename"] == asset["hash"].removeprefix("blake3:") + ".png"
    assert (asset["node_id"], asset["output_key"], asset["output_index"]) == ("2", "images", 0)


async def test_deleting_a_job_deletes_its_files(sim: Simulator, visitor: Visitor) -> None:
    detail = await visitor.run(plain())
    assert (await visitor.ask("DELETE", f"/api/jobs/{detail['id']}")).status == 204
    assert (await visitor.get(f"/api/jobs/{detail['id']}")).status == 404
    name = detail["preview_output"]["filename"]
    assert (await visitor.get("/api/view", filename=name)).status == 404


async def test_a_running_job_is_not_deleted(sim: Simulator, visitor: Visitor) -> None:
    job_id = await visitor.submit(waiting())
    assert (await visitor.ask("DELETE", f"/api/jobs/{job_id}")).status == 204
    assert job_id in sim.jobs


async def test_a_file_in_use_protects_its_job(sim: Simulator, visitor: Visitor) -> None:
    detail = await visitor.run(plain())
    name = detail["preview_output"]["filename"]
    graph = waiting()
    graph["9"] = {"class_type": "LoadImage", "inputs": {"image": f"{name} [output]"}}
    graph["10"] = {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}}
    await visitor.submit(graph)
    answer = await visitor.ask("DELETE", f"/api/jobs/{detail['id']}")
    assert (answer.status, answer.code) == (409, "ASSET_IN_USE")


async def test_the_cloud_may_lose_a_job(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(JobFault("lost"))
    detail = await visitor.run(plain(), "lost")
    assert detail["status"] == "failed"
    assert "execution_error" not in detail


async def test_the_platform_may_fail_it(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(JobFault("service_error"))
    detail = await visitor.run(plain(), "non_retryable_error")
    assert detail["execution_error"]["exception_type"] == "ServiceError"
    assert detail["execution_error"]["node_id"] == ""


async def test_it_may_run_twice(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(JobFault("retried", after=3))
    detail = await visitor.run(plain())
    states = sim.jobs[detail["id"]].states
    assert states[1:5] == ["preparing", "executing", "retryable_error", "executing"]
    assert detail["outputs_count"] == 1


async def test_it_may_never_end_until_it_is_cancelled(sim: Simulator, visitor: Visitor) -> None:
    sim.faults.add(JobFault("hang"))
    job_id = await visitor.submit(plain())
    await sim.wait_for(job_id, "executing")
    await visitor.post(f"/api/jobs/{job_id}/cancel")
    await sim.wait_for_end(job_id)
