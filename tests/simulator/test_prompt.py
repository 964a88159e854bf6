"""Submissions."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from graphs import inverted, plain, waiting
from simulator.visitor import Visitor

from proxy.simulator import Simulator


def half() -> dict[str, Any]:
    """A graph with a good output and one whose picture does not exist."""
    return {**plain(), "3": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}


async def test_the_cloud_mints_the_id(sim: Simulator, visitor: Visitor) -> None:
    wanted = str(uuid.uuid4())
    answer = await visitor.post(
        "/api/prompt",
        {"prompt": plain(), "prompt_id": wanted, "client_id": "me", "number": 7, "front": True},
    )
    assert answer.status == 200
    assert answer.json["prompt_id"] != wanted
    assert (answer.json["number"], answer.json["node_errors"]) == (1, {})
    job = sim.jobs[answer.json["prompt_id"]]
    assert "client_id" not in job.extra_data


async def test_a_switch_makes_it_honour_both(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.update({"honour_prompt_id": True, "echo_client_id": True})
    wanted = str(uuid.uuid4())
    assert await visitor.submit(plain(), prompt_id=wanted, client_id="me") == wanted
    assert sim.jobs[wanted].extra_data["client_id"] == "me"


async def test_it_may_come_with_200_or_flat(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.invalid_prompt = "200"
    answer = await visitor.post("/api/prompt", {"prompt": {}})
    assert answer.status == 200
    assert "prompt_id" not in answer.json
    assert answer.json["error"]["type"] == "prompt_no_outputs"
    sim.switches.invalid_prompt = "flat"
    answer = await visitor.post("/api/prompt", {"prompt": {}})
    assert (answer.status, answer.code) == (400, "PROMPT_NO_OUTPUTS")


async def test_errors_of_nodes_may_lack_details(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.node_error_details = False
    answer = await visitor.post("/api/prompt", {"prompt": inverted("nowhere.png")})
    (error,) = answer.json["node_errors"]["1"]["errors"]
    assert set(error) == {"type", "message"}


async def test_a_partly_valid_graph_may_leave_a_ghost(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.partly_valid = "ghost"
    answer = await visitor.post("/api/prompt", {"prompt": half()})
    assert answer.json["node_errors"]
    assert (await visitor.get(f"/api/jobs/{answer.json['prompt_id']}")).status == 404


async def test_or_be_pruned_in_silence(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.partly_valid = "silent"
    answer = await visitor.post("/api/prompt", {"prompt": half()})
    assert answer.json["node_errors"] == {}
    assert sim.jobs[answer.json["prompt_id"]].output_nodes == ["2"]


async def test_the_answer_may_come_after_the_first_event(sim: Simulator, visitor: Visitor) -> None:
    ears = await visitor.listen()
    sim.switches.update({"late_answer": 0.2, "answer_after_first_event": True})
    submission = asyncio.create_task(visitor.submit(plain()))
    start = await ears.until("execution_start")
    assert not submission.done()
    assert await submission == start["prompt_id"]


async def test_a_job_behind_others_is_answered_all_the_same(
    sim: Simulator, visitor: Visitor
) -> None:
    sim.switches.answer_after_first_event = True
    await visitor.submit(waiting())
    await asyncio.wait_for(visitor.submit(plain()), 60)


async def test_only_so_many_may_wait(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.queue_limit = 1
    await visitor.submit(waiting())
    await visitor.submit(plain())
    answer = await visitor.post("/api/prompt", {"prompt": plain()})
    assert (answer.status, answer.code) == (429, "QUEUE_LIMIT")
