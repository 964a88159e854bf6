"""What is missing, doubled or wrong in jobs, messages and costs is found."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import aiohttp
import pytest
from chaos.accounting import Submission, account
from chaos.gateway import SPENDER, messages_of
from chaos.ledger import Cost, Ledger, Spent, account_costs, cost_of
from chaos.messages import Attempt, Message, account_messages
from chaos.receiver import FailingReceiver, receiving
from standardwebhooks import Webhook

RAN = {"comfy_cloud_proxy": "someone/1/"}
ACCEPTED = Submission("1", accepted=True, recorded="error")


@pytest.mark.parametrize(
    ("submissions", "cloud_jobs", "faults"),
    [
        ([ACCEPTED], [RAN], {}),
        ([ACCEPTED], [RAN, RAN], {"submitted_twice": 1}),
        ([ACCEPTED], [], {"lost": 1}),
        ([replace(ACCEPTED, interrupted=True)], [], {}),
        ([replace(ACCEPTED, accepted=False)], [RAN], {"strangers": 1}),
        ([replace(ACCEPTED, recorded=None)], [RAN], {"without_end": 1}),
    ],
)
def test_faults_of_jobs(
    submissions: list[Submission], cloud_jobs: list[dict[str, str]], faults: dict[str, int]
) -> None:
    assert account(submissions, cloud_jobs, 0).faults() == faults


SECRET = "whsec_" + "AAAA" * 8
DONE = Message("/anna", "job.completed", "1")
FAILED = Message("/anna", "job.failed", "2")
BEGAN = Message("/anna", "job.started", "2")


def came(message: Message = DONE, id_: str = "msg_1", *, body: bytes = b"{}") -> Attempt:
    return Attempt(message, id_, body, accepted=True)


WELL = [came(), came(FAILED, "msg_2")]


@pytest.mark.parametrize(
    ("attempts", "faults"),
    [
        (WELL, {}),
        ([*WELL, came()], {}),
        ([*WELL, came(BEGAN, "msg_3")], {}),
        ([replace(came(), accepted=False), *WELL], {}),
        (WELL[:1], {"missing": 1}),
        ([], {"missing": 2}),
        ([came(), replace(came(FAILED, "msg_2"), accepted=False)], {"missing": 1}),
        ([*WELL, came(id_="msg_3")], {"sent_under_two_ids": 1}),
        ([*WELL, came(BEGAN, "msg_3"), came(BEGAN, "msg_4")], {"sent_under_two_ids": 1}),
        ([*WELL, came(DONE._replace(path="/ben"), "msg_1")], {"uncalled_for": 1}),
        ([*WELL, came(DONE._replace(type="job.failed"), "msg_3")], {"uncalled_for": 1}),
        ([*WELL, came(DONE._replace(subject="3"), "msg_3")], {"uncalled_for": 1}),
        ([*WELL, came(body=b"{ }")], {"changed": 1}),
        ([*WELL, replace(came(), verified=False)], {"forged": 1}),
    ],
)
def test_faults_of_messages(attempts: list[Attempt], faults: dict[str, int]) -> None:
    assert account_messages([DONE, FAILED], attempts, allowed=[BEGAN]).faults() == faults


def test_what_the_storage_has_not_as_delivered_is_a_fault() -> None:
    assert account_messages([DONE], [came()], undelivered=1).faults() == {"undelivered": 1}


def test_each_job_tells_its_member_and_the_gateway() -> None:
    day = "2026-11-29"
    jobs = [
        Cost("1", "anna", "default", "completed", day, 10),
        Cost("2", "ben", "default", "cancelled", day, 10),
        Cost("3", SPENDER, "default", "failed", day, 400),
    ]
    due, allowed = messages_of(jobs, 1000)
    assert due == {
        Message("/gateway", "job.completed", "1"),
        Message("/gateway", "job.started", "1"),
        Message("/anna", "job.completed", "1"),
        Message("/anna", "job.started", "1"),
        Message("/gateway", "job.cancelled", "2"),
        Message("/ben", "job.cancelled", "2"),
        Message("/gateway", "job.failed", "3"),
        Message(f"/{SPENDER}", "job.failed", "3"),
        Message("/gateway", "budget.reached", f"soft_credits_per_day of {SPENDER}"),
        Message(f"/{SPENDER}", "budget.reached", f"soft_credits_per_day of {SPENDER}"),
    }
    assert allowed == {
        Message("/gateway", "job.started", "2"),
        Message("/gateway", "job.started", "3"),
    }


def test_a_budget_that_has_refused_a_job_may_be_told_of_before_all_of_it_is_spent() -> None:
    _, allowed = messages_of([], 1000, refused=1)
    assert Message("/gateway", "budget.reached", f"credits_per_day of {SPENDER}") in allowed


DAY = "2026-11-29"
JOBS = [
    Cost("1", "anna", "one", "completed", DAY, 2_500_000),
    Cost("2", "anna", "two", "failed", DAY, 500_000),
    Cost("3", "ben", "", "cancelled", DAY, 0),
]
ANNA = {
    "day": DAY,
    "member": "anna",
    "submitted": 2,
    "completed": 1,
    "failed": 1,
    "cancelled": 0,
    "credits_reported": 0.5,
    "credits_estimated": 2.5,
}
BEN = {
    **ANNA,
    "member": "ben",
    "submitted": 1,
    "completed": 0,
    "failed": 0,
    "cancelled": 1,
    "credits_reported": 0.0,
    "credits_estimated": 0.0,
}
COSTS = [
    {"day": DAY, "member": "anna", "account": "one", "credits": 2.0},
    {"day": DAY, "member": "anna", "account": "one", "credits": 0.5},
    {"day": DAY, "member": "anna", "account": "two", "credits": 0.5},
]
RIGHT = Ledger([ANNA, BEN], COSTS, {"1": 1, "2": 1, "3": 1}, {"anna": 0}, 0)


@pytest.mark.parametrize(
    ("ledger", "faults"),
    [
        (RIGHT, {}),
        (replace(RIGHT, history={"1": 1, "2": 1}), {"wrong_histories": 1}),
        (replace(RIGHT, history={"1": 2, "2": 1, "3": 1}), {"wrong_histories": 1}),
        (replace(RIGHT, history={**RIGHT.history, "4": 1}), {"wrong_histories": 1}),
        (replace(RIGHT, usage=[ANNA]), {"wrong_usage": 2}),
        (replace(RIGHT, usage=[{**ANNA, "completed": 2}, BEN]), {"wrong_usage": 1}),
        (replace(RIGHT, usage=[{**ANNA, "submitted": 3}, BEN]), {"wrong_usage": 1}),
        (replace(RIGHT, usage=[{**ANNA, "credits_estimated": 2.5001}, BEN]), {"wrong_usage": 1}),
        (replace(RIGHT, usage=[{**ANNA, "day": "2026-11-28"}, BEN]), {"wrong_usage": 6}),
        (replace(RIGHT, costs=COSTS[1:]), {"wrong_costs": 1}),
        (replace(RIGHT, costs=[*COSTS, {**COSTS[1], "account": "three"}]), {"wrong_costs": 1}),
        (replace(RIGHT, reserved={"anna": 1}), {"reservations": 1}),
        (replace(RIGHT, live=2), {"live_jobs": 2}),
    ],
)
def test_faults_of_the_ledger(ledger: Ledger, faults: dict[str, int]) -> None:
    assert account_costs(JOBS, ledger, budget=0, spent=(), refused=1).faults() == faults


@pytest.mark.parametrize(
    ("spent", "faults"),
    [
        ([Spent(DAY, 0, 1, 60), Spent(DAY, 2, 3, 40), Spent(DAY, 4, 5, 9)], {}),
        ([Spent(DAY, 0, 1, 60), Spent(DAY, 2, 3, 41), Spent(DAY, 4, 5, 9)], {"overspending": 1}),
        # What was under way, or was found afterwards, may pass the budget.
        ([Spent(DAY, 0, 5, 60), Spent(DAY, 2, 5, 41), Spent(DAY, 4, 5, 9)], {}),
        ([Spent(DAY, 0, None, 999), Spent(DAY, 2, 3, 9)], {}),
        ([Spent("2026-11-28", 0, 1, 999), Spent(DAY, 2, 3, 9)], {}),
    ],
)
def test_a_job_that_is_accepted_when_the_budget_is_spent_is_a_fault(
    spent: list[Spent], faults: dict[str, int]
) -> None:
    sums = account_costs(JOBS, RIGHT, budget=100, spent=spent, refused=1)
    assert sums.faults() == faults


def test_a_budget_that_has_refused_nothing_shows_nothing() -> None:
    sums = account_costs(JOBS, RIGHT, budget=100, spent=(), refused=0)
    assert sums.faults() == {"budget_never_reached": 1}


def test_a_job_is_counted_as_it_is_shown() -> None:
    shown = {
        "id": "1",
        "member": "anna",
        "account": "one",
        "state": "completed",
        "ended": 1_795_910_400_000,
        "cost": {"credits": 2.5, "source": "estimated", "parts": []},
    }
    assert cost_of(shown) == JOBS[0]


@pytest.fixture
async def receiver() -> AsyncIterator[FailingReceiver]:
    receiver = FailingReceiver(random.Random(1))
    receiver.secrets["/anna"] = SECRET
    async with receiving(receiver):
        yield receiver


async def send(
    receiver: FailingReceiver, secret: str = SECRET, *, within: float = 30.0
) -> int | None:
    """Send a message; the status, if there was an answer."""
    body = '{"type": "job.completed", "data": {"prompt_id": "1"}}'
    at = datetime.now(UTC)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign("msg_1", at, body),
    }
    url, timeout = receiver.url / "anna", aiohttp.ClientTimeout(total=within)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=body, headers=headers) as answer,
        ):
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return None


async def test_a_receiver_fails_in_each_way_until_it_is_well(receiver: FailingReceiver) -> None:
    answers = {await send(receiver, within=0.5) for _ in range(150)}
    assert answers == {204, 500, None}
    assert {attempt.message for attempt in receiver.attempts} == {DONE}
    assert all(attempt.verified for attempt in receiver.attempts)
    failed = [attempt for attempt in receiver.attempts if not attempt.accepted]
    assert 5 < len(failed) < 50
    receiver.heal()
    assert [await send(receiver) for _ in range(20)] == [204] * 20


async def test_a_receiver_that_is_away_comes_back_to_its_port(receiver: FailingReceiver) -> None:
    receiver.heal()
    await receiver.close()
    assert await send(receiver) is None
    await receiver.open()
    assert await send(receiver) == 204
    assert len(receiver.attempts) == 1


async def test_a_receiver_sees_a_wrong_signature(receiver: FailingReceiver) -> None:
    receiver.heal()
    await send(receiver, "whsec_" + "BBBB" * 8)
    (attempt,) = receiver.attempts
    assert not attempt.verified
