"""Which step follows an outcome."""

from __future__ import annotations

from typing import Any

import pytest
from jobs.samples import job

from proxy.engine.outcomes import (
    Discard,
    Elsewhere,
    Fail,
    Follow,
    Interrupt,
    LookFor,
    Lost,
    NotNow,
    NotThere,
    Outcome,
    OutOfMemory,
    OverBudget,
    Refused,
    Sent,
    TryOther,
    Wait,
    Withdrawn,
    next_step,
)
from proxy.translate.errors import LocalError

WHY = LocalError("refused", "No.")

SENT, REFUSED, LOST = Sent("c"), Refused(WHY), Lost(WHY)
SILENT = Elsewhere(WHY, "unreachable", silent=True)
NO_CREDITS, DISK_FULL, BROKEN = Elsewhere(WHY, "no_credits"), NotNow(), NotNow(WHY)

#: What follows for a job whose client waits for the answer, and for one that was promised.
STEPS: list[tuple[Outcome, Any, Any]] = [
    (SENT, Follow(SENT), Follow(SENT)),
    (LOST, LookFor(), LookFor()),
    (REFUSED, Discard(WHY), Fail(WHY)),
    (NO_CREDITS, Discard(WHY), Wait()),
    (SILENT, Wait(), Wait()),
    (DISK_FULL, Wait(pause=True), Wait(pause=True)),
    (BROKEN, Discard(WHY), Wait(pause=True)),
    (NotThere(), Discard(), Wait()),
    (OverBudget(), Wait(), Wait()),
    (OutOfMemory(), Wait(), Wait()),
]


@pytest.mark.parametrize(("outcome", "new", "accepted"), STEPS, ids=lambda value: str(value)[:24])
def test_a_new_job_is_refused_where_an_accepted_one_waits_or_fails(
    outcome: Outcome, new: Any, accepted: Any
) -> None:
    assert next_step(job(accepted=False), outcome) == new
    assert next_step(job(accepted=True), outcome) == accepted


def test_a_new_job_tries_another_account_that_is_well() -> None:
    assert next_step(job(accepted=False), NO_CREDITS, has_other=True) == TryOther()
    assert next_step(job(accepted=True), NO_CREDITS, has_other=True) == Wait()


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("outcome", [REFUSED, NO_CREDITS, DISK_FULL, BROKEN, NotThere()])
def test_nothing_is_sent_again_or_recorded_that_its_client_has_cancelled(
    outcome: Outcome, accepted: bool
) -> None:
    step = next_step(job(accepted=accepted, cancel_requested=True), outcome, has_other=True)
    assert isinstance(step, Discard)


def test_what_the_cloud_may_have_is_followed_though_its_client_has_cancelled_it() -> None:
    unwanted = job(accepted=True, cancel_requested=True)
    assert next_step(unwanted, LOST) == LookFor()
    assert next_step(unwanted, SENT) == Follow(SENT)


def test_a_job_that_another_replica_has_withdrawn_is_forgotten() -> None:
    step = next_step(job(accepted=False), Withdrawn())
    assert isinstance(step, Discard)
    assert step.refusal is not None
    assert step.refusal.type == "submission_withdrawn"


@pytest.mark.parametrize("outcome", [Withdrawn(), NO_CREDITS, DISK_FULL, BROKEN, NotThere()])
def test_an_interrupted_job_that_the_cloud_does_not_have_ends_as_interrupted(
    outcome: Outcome,
) -> None:
    assert next_step(job(accepted=True, interrupted=True), outcome) == Interrupt()


def test_an_interrupted_job_is_followed_where_the_cloud_has_it_and_fails_if_it_was_refused() -> (
    None
):
    interrupted = job(accepted=True, interrupted=True)
    assert next_step(interrupted, SENT) == Follow(SENT)
    assert next_step(interrupted, REFUSED) == Fail(WHY)
    assert isinstance(next_step(job(accepted=False, interrupted=True), Withdrawn()), Discard)
