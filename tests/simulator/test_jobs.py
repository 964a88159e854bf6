"""What is told about jobs."""

from __future__ import annotations

import json
import uuid

from graphs import plain, raising
from simulator.visitor import Visitor

from proxy.simulator import JobFault, Simulator

NOBODY = str(uuid.UUID(int=1))


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


async def test_the_history_forgets(visitor: Visitor) -> None:
    ids = [(await visitor.run(plain(n)))["id"] for n in range(3)]
    assert (await visitor.post("/api/history", {"delete": [ids[0], NOBODY]})).body == b""
    assert len((await visitor.get("/api/history_v2")).json["history"]) == 2
    await visitor.post("/api/history", {"clear": True})
    assert (await visitor.get("/api/history_v2")).json == {"history": []}


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
