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


async def test_several_are_cancelled_or_none(sim: Simulator, visitor: Visitor) -> None:
    first, second = [await visitor.submit(waiting()) for _ in range(2)]
    answer = await visitor.post("/api/jobs/cancel", {"job_ids": [first, NOBODY]})
    assert answer.status == 404
    assert not sim.jobs[first].cancelling
    answer = await visitor.post("/api/jobs/cancel", {"job_ids": [first, second]})
    assert answer.json == {"cancelled": [first, second]}
    answer = await visitor.post("/api/jobs/cancel", {"job_ids": [first]})
    assert answer.json == {"cancelled": []}


async def test_interrupt_takes_the_oldest_running_job_else_the_oldest_waiting_one(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.set_plan("creator")
    ids = [await visitor.submit(waiting()) for _ in range(4)]
    await sim.wait_for(ids[2], "executing")
    answer = await visitor.ask("POST", "/api/interrupt", data=b"not json")
    assert (answer.status, answer.body) == (200, b"")
    assert [sim.jobs[job_id].cancelling for job_id in ids] == [True, False, False, False]


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
