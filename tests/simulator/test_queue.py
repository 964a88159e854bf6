"""Slots, order, cancelling."""

from __future__ import annotations

import uuid

import pytest
from graphs import plain, waiting
from simulator.visitor import Visitor

from proxy.simulator import Plan, Simulator

NOBODY = str(uuid.UUID(int=1))


@pytest.mark.parametrize(("plan", "slots"), [("standard", 1), ("creator", 3), ("pro", 5)])
async def test_a_plan_has_its_slots(
    sim: Simulator, visitor: Visitor, plan: Plan, slots: int
) -> None:
    sim.set_plan(plan)
    ids = [await visitor.submit(waiting()) for _ in range(slots + 1)]
    for job_id in ids[:slots]:
        await sim.wait_for(job_id, "executing")
    queue = (await visitor.get("/api/queue")).json
    assert [item[1] for item in queue["queue_running"]] == ids[:slots]
    assert [item[1] for item in queue["queue_pending"]] == ids[slots:]


async def test_the_rest_waits_and_says_where(sim: Simulator, visitor: Visitor) -> None:
    _, first, second = [await visitor.submit(waiting()) for _ in range(3)]
    detail = (await visitor.get(f"/api/jobs/{second}")).json
    assert (detail["status"], detail["queue_reason"]) == ("pending", "concurrency_limit")
    assert detail["queue_position"] == 2
    assert (await visitor.get(f"/api/job/{first}/status")).json["status"] == "queued_limited"


async def test_the_first_that_came_runs_first(sim: Simulator, visitor: Visitor) -> None:
    ids = [await visitor.submit(plain(n)) for n in range(4)]
    for job_id in ids:
        await sim.wait_for(job_id, "completed")
    started = [sim.jobs[job_id].started or 0 for job_id in ids]
    assert started == sorted(started)


async def test_queue_tuples_have_the_outputs_fourth(sim: Simulator, visitor: Visitor) -> None:
    graph = waiting()
    job_id = await visitor.submit(graph, extra_data={"api_key_comfy_org": "secret"})
    await sim.wait_for(job_id, "executing")
    await visitor.submit(plain())
    queue = (await visitor.get("/api/queue")).json
    (running,), (pending,) = queue["queue_running"], queue["queue_pending"]
    number, shown_id, shown, outputs, metadata = running
    assert (number, shown_id, set(shown)) == (1, job_id, set(graph))
    assert all(isinstance(node, str) for node in outputs)
    assert metadata == {"create_time": sim.jobs[job_id].created}
    assert pending[0] == 2
    sim.switches.queue_prompt = "wrapper"
    wrapper = (await visitor.get("/api/queue")).json["queue_running"][0][2]
    assert wrapper["extra_data"] == {"api_key_comfy_org": "[REDACTED]"}


async def test_a_running_job_is_cancelled_a_little_later(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.settle = 1.0
    job_id = await visitor.submit(waiting())
    job = await sim.wait_for(job_id, "executing")
    assert (await visitor.post(f"/api/jobs/{job_id}/cancel")).json == {"cancelled": True}
    assert (await visitor.post(f"/api/jobs/{job_id}/cancel")).json == {"cancelled": False}
    detail = (await visitor.get(f"/api/jobs/{job_id}")).json
    assert detail["status"] == "cancelled"
    assert "execution_end_time" not in detail
    await sim.wait_for_end(job_id)
    assert job.states[-3:] == ["cancel_requested", "cancel_pending", "cancelled"]
    assert (await visitor.post(f"/api/jobs/{job_id}/cancel")).json == {"cancelled": False}


async def test_a_waiting_job_is_cancelled_and_stays_in_the_lists(
    sim: Simulator, visitor: Visitor
) -> None:
    await visitor.submit(waiting())
    job_id = await visitor.submit(plain())
    assert (await visitor.post(f"/api/jobs/{job_id}/cancel")).json == {"cancelled": True}
    await sim.wait_for_end(job_id)
    listed = (await visitor.get("/api/jobs", status="cancelled")).json["jobs"]
    assert [entry["id"] for entry in listed] == [job_id]
    assert listed[0]["outputs_count"] == 0


async def test_a_cancelled_job_frees_its_slot(sim: Simulator, visitor: Visitor) -> None:
    first = await visitor.submit(waiting())
    second = await visitor.submit(plain())
    await visitor.post(f"/api/jobs/{first}/cancel")
    await sim.wait_for(second, "completed")


async def test_cancelling_wants_a_known_uuid(visitor: Visitor) -> None:
    assert (await visitor.post("/api/jobs/abc/cancel")).status == 400
    assert (await visitor.post(f"/api/jobs/{NOBODY}/cancel")).status == 404


async def test_several_are_cancelled_or_none(sim: Simulator, visitor: Visitor) -> None:
    first, second = [await visitor.submit(waiting()) for _ in range(2)]
    answer = await visitor.post("/api/jobs/cancel", {"job_ids": [first, NOBODY]})
    assert answer.status == 404
    assert not sim.jobs[first].cancelling
    answer = await visitor.post("/api/jobs/cancel", {"job_ids": [first, second]})
    assert answer.json == {"cancelled": [first, second]}
    answer = await visitor.post("/api/jobs/cancel", {"job_ids": [first]})
    assert answer.json == {"cancelled": []}


@pytest.mark.parametrize(
    "body", [{}, {"job_ids": []}, {"job_ids": ["x"]}, {"job_ids": [NOBODY] * 101}, {"ids": []}]
)
async def test_strange_batches_are_400(visitor: Visitor, body: object) -> None:
    assert (await visitor.post("/api/jobs/cancel", body)).status == 400


async def test_deleting_from_the_queue_cancels_running_jobs_too(
    sim: Simulator, visitor: Visitor
) -> None:
    first, second = [await visitor.submit(waiting()) for _ in range(2)]
    await sim.wait_for(first, "executing")
    answer = await visitor.post("/api/queue", {"delete": [first, NOBODY]})
    assert answer.json == {"deleted": [first], "cleared": False}
    await sim.wait_for(second, "executing")
    sim.switches.queue_delete_running = False
    answer = await visitor.post("/api/queue", {"delete": [second]})
    assert answer.json == {"deleted": [], "cleared": False}


async def test_clearing_hits_all_that_wait(sim: Simulator, visitor: Visitor) -> None:
    first, second = [await visitor.submit(waiting()) for _ in range(2)]
    await sim.wait_for(first, "executing")
    answer = await visitor.post("/api/queue", {"clear": True})
    assert answer.json == {"deleted": [second], "cleared": True}


@pytest.mark.parametrize("path", ["/api/queue", "/api/history"])
async def test_unknown_keys_are_refused(visitor: Visitor, path: str) -> None:
    assert (await visitor.post(path, {"clear": True, "more": 1})).status == 400


async def test_interrupt_takes_the_oldest_running_job_else_the_oldest_waiting_one(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.set_plan("creator")
    ids = [await visitor.submit(waiting()) for _ in range(4)]
    await sim.wait_for(ids[2], "executing")
    answer = await visitor.ask("POST", "/api/interrupt", data=b"not json")
    assert (answer.status, answer.body) == (200, b"")
    assert [sim.jobs[job_id].cancelling for job_id in ids] == [True, False, False, False]


async def test_interrupt_by_name_reaches_waiting_jobs(sim: Simulator, visitor: Visitor) -> None:
    _, second = [await visitor.submit(waiting()) for _ in range(2)]
    assert (await visitor.post("/api/interrupt", {"prompt_id": second})).status == 200
    assert sim.jobs[second].cancelling
    assert (await visitor.post("/api/interrupt", {"prompt_id": second})).status == 200
    answer = await visitor.post("/api/interrupt", {"prompt_id": NOBODY})
    assert (answer.status, answer.code) == (404, "NOT_FOUND")


async def test_interrupt_may_take_all_running_jobs(sim: Simulator, visitor: Visitor) -> None:
    sim.set_plan("creator")
    sim.switches.update({"interrupt_scope": "all_running", "bare_answers": "object"})
    ids = [await visitor.submit(waiting()) for _ in range(4)]
    await sim.wait_for(ids[2], "executing")
    assert (await visitor.post("/api/interrupt")).json == {}
    assert [sim.jobs[job_id].cancelling for job_id in ids] == [True, True, True, False]


async def test_a_job_whose_result_is_saved_is_allowed_to_finish(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.switches.late_detail = 1.0
    job_id = await visitor.submit(plain())
    await sim.wait_for(job_id, "executed")
    assert (await visitor.post(f"/api/jobs/{job_id}/cancel")).json == {"cancelled": False}
    await sim.wait_for(job_id, "completed")
