"""A job goes to the cloud exactly once, whatever becomes of the answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import gated
import graphs
import pytest
from engine.rig import running_engine
from waiting import until

from proxy.engine.submitter import fault_of
from proxy.simulator import HttpFault, Simulator

SUBMIT = "POST /api/prompt"


@pytest.mark.parametrize(
    "fault",
    [
        HttpFault(SUBMIT, reset=True, processed=True),
        HttpFault(SUBMIT, reset=True),
        HttpFault(SUBMIT, status=504, processed=True),
        HttpFault(SUBMIT, status=503),
    ],
    ids=["answer lost", "never arrived", "gateway gave up", "busy"],
)
async def test_a_job_is_there_once_after_a_fault(
    simulator: Simulator, tmp_path: Path, fault: HttpFault
) -> None:
    simulator.faults.add(fault)
    async with running_engine(simulator, tmp_path) as rig:
        job, answer = await rig.submit(graphs.plain())
        assert answer.error is None
        assert (await rig.ended(job)).state == "succeeded"
    assert len(simulator.jobs) == 1


@pytest.mark.parametrize("processed", [True, False])
async def test_a_job_that_was_answered_with_nonsense_shows_that_it_is_looked_for(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event, processed: bool
) -> None:
    async with running_engine(simulator, tmp_path, adoption_timeout=0.5) as rig:
        await rig.submit(gated.GRAPH)
        nonsense = HttpFault(SUBMIT, status=200, body="nonsense", processed=processed)
        simulator.faults.add(nonsense)
        waiting, _ = await rig.submit(graphs.plain())
        rig.heard.news.clear()
        opened.set()
        assert (await rig.ended(waiting)).state == "succeeded"
    reasons = [told.reason for told in rig.heard.news if told.what == "changed"]
    assert "unanswered" in reasons
    assert reasons[-1] is None
    assert len(simulator.jobs) == 2


async def test_an_answer_that_got_lost_is_found_again_for_waiting_jobs_too(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        await rig.submit(gated.GRAPH)
        simulator.faults.add(HttpFault(SUBMIT, reset=True, processed=True))
        waiting, _ = await rig.submit(graphs.plain())
        opened.set()
        await rig.ended(waiting)
    assert len(simulator.jobs) == 2


async def test_a_cloud_that_stays_busy_is_an_error_with_its_name(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.switches.refuse_prompt = "QUEUE_LIMIT"
    async with running_engine(simulator, tmp_path) as rig:
        # Before, the way to the cloud counts as interrupted, and the client is answered sooner.
        await until(lambda: rig.engine._workers["default"].feed.connected)
        job, answer = await rig.submit(graphs.plain())
        assert (answer.error.type, answer.error.kind) == ("QUEUE_LIMIT", "unavailable")
        assert await rig.is_gone(job)
    assert simulator.calls[SUBMIT] > 1


@pytest.mark.parametrize(
    "refusal", ["PAYMENT_REQUIRED", "FREE_TIER_EXHAUSTED", "PARTNER_NODE_DISABLED"]
)
async def test_what_needs_a_person_is_answered_at_once(
    simulator: Simulator, tmp_path: Path, refusal: str
) -> None:
    simulator.switches.update({"refuse_prompt": refusal})
    async with running_engine(simulator, tmp_path) as rig:
        job, answer = await rig.submit(graphs.plain())
        assert answer.error.type == refusal
        assert await rig.is_gone(job)
    assert simulator.calls[SUBMIT] == 1


async def test_partner_nodes_get_the_key_of_the_account_unless_it_is_kept(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path / "lent") as rig:
        await rig.ended((await rig.submit(graphs.plain(1)))[0])
    async with running_engine(simulator, tmp_path / "kept", send_partner_key=False) as rig:
        await rig.ended((await rig.submit(graphs.plain(2)))[0])
    lent, kept = simulator.jobs.values()
    assert lent.extra_data["api_key_comfy_org"] == simulator.key
    assert "api_key_comfy_org" not in kept.extra_data


async def test_the_credentials_of_a_client_are_not_replaced(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_engine(simulator, tmp_path) as rig:
        job = rig.job(graphs.plain())
        job.loaded.credentials = {"api_key_comfy_org": "the client's"}
        submitted, _ = await rig.submit(graphs.plain(), content=job.content)
        await rig.ended(submitted)
    (sent,) = simulator.jobs.values()
    assert sent.extra_data["api_key_comfy_org"] == "the client's"


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (401, {}, "dead_key"),
        (402, {}, "no_credits"),
        (503, {}, "unreachable"),
        (400, {}, None),
        (402, {"error": {"type": "PARTNER_NODE_PAYMENT_REQUIRED"}}, None),
    ],
)
def test_what_a_refusal_says_of_the_account(status: int, body: object, fault: str | None) -> None:
    assert fault_of(status, body) == fault
