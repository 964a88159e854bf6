"""A submission is in the storage before the engine learns of it, whose answer the client gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from jobs.samples import MEMBER, NoChecks, SilentEngine, estimator, new
from storage.samples import ended

from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.clients import Clients
from proxy.jobs.engine_calls import Submitted
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.models import Job, JobRequest
from proxy.jobs.submission import SubmissionService
from proxy.jobs.submission_limits import SubmissionLimits
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.members.accounting import Limiter, Usage
from proxy.members.member import Limits, Member
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.pool import Pool
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.database import BusyError, Database, StorageError
from proxy.storage.job_tables import JobKey
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import payload_bytes
from proxy.storage.usage import UsageRepository
from proxy.translate.errors import LocalError
from proxy.translate.validation import Validation

GRAPH = {"1": {"class_type": "X", "inputs": {}}}


class AnsweringEngine(SilentEngine):
    """An engine that only answers: with what `answer` returns, not at all if that is nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Callable[[Job], Submitted | None] = lambda _: {}
        self.answered: list[asyncio.Future[Submitted]] = []

    def submit(self, job: Job) -> asyncio.Future[Submitted]:
        answered = super().submit(job)
        self.answered.append(answered)
        if (answer := self.answer(job)) is not None:
            answered.set_result(answer)
        return answered


class Entrance:
    """The submissions, and an engine that only answers."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self.repository, self.engine = JobRepository(database), AnsweringEngine()
        self.limits, self.clients = limits, Clients()

        def member(name: str) -> Member:
            return Member(name, limits=self.limits)

        feed = LiveFeed(
            LiveJobs(self.repository, MemoryBudget(2**28)),
            Subscribers(self.clients, Supervisor()),
            History(self.repository.history, None),
        )
        self.service = SubmissionService(
            engine=self.engine,
            record=Job,
            repository=self.repository,
            feed=feed,
            clients=self.clients,
            checks=NoChecks(),
            limits=SubmissionLimits(
                self.repository,
                feed.live,
                member,
                Limiter(member, Usage(UsageRepository(database))),
                estimator(),
                BudgetRefusals(BudgetNoticeRepository(database), asyncio.Event()),
            ),
        )

    async def submit(self, prompt_id: str | None = None, **fields: Any) -> dict[str, Any]:
        request = JobRequest(graph=GRAPH, prompt_id=prompt_id, **fields)
        async with self.service.submitted(MEMBER, request) as answer:
            released = {key.prompt_id for key, _ in self.engine.released}
            assert answer["prompt_id"] not in released
        return answer

    async def refusal(self, prompt_id: str | None = None, **fields: Any) -> LocalError:
        with pytest.raises(LocalError) as caught:
            await self.submit(prompt_id, **fields)
        return caught.value


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def entrance(database: Database, limits: Limits) -> Entrance:
    return Entrance(database, limits)


async def test_a_job_is_stored_and_numbered_before_the_engine_learns_of_it(
    entrance: Entrance,
) -> None:
    answer = await entrance.submit("a")
    assert answer == {"prompt_id": "a", "number": 0, "node_errors": {}}
    row = await entrance.repository.get(MEMBER, "a")
    assert row is not None
    (received,) = entrance.engine.received
    assert (received.key, received.order) == (row.key, row.order)
    assert row.order > 0


async def test_numbers_grow_and_are_negative_in_front(entrance: Entrance) -> None:
    """A number that the client has chosen changes no other."""
    numbers = [
        (await entrance.submit())["number"],
        (await entrance.submit(front=True))["number"],
        (await entrance.submit(number=7.5))["number"],
        (await entrance.submit())["number"],
    ]
    assert numbers == [0, -1, 7.5, 2]


async def test_refused_requests_use_numbers_up_at_the_next_leader_too(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> Validation:
        raise LocalError("invalid_prompt", "No.")

    entrance.service.live.put(new("front", -7))
    with monkeypatch.context() as patch:
        patch.setattr(entrance.service.checks, "check", refuse)
        await entrance.refusal()
    assert (await entrance.submit())["number"] == 9


async def test_a_client_gets_what_the_engine_has_left_out(entrance: Entrance) -> None:
    errors = {"1": {"errors": []}}
    entrance.engine.answer = lambda _: errors
    assert (await entrance.submit())["node_errors"] == errors


async def test_what_the_checks_and_the_cloud_have_left_out_is_told_together(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(*_: object) -> Validation:
        return Validation(["1"], {"2": "found"})

    monkeypatch.setattr(entrance.service.checks, "check", check)
    entrance.engine.answer = lambda _: {"3": "omitted"}
    assert (await entrance.submit())["node_errors"] == {"2": "found", "3": "omitted"}


async def test_a_refusal_of_the_engine_is_raised_and_the_job_released(entrance: Entrance) -> None:
    entrance.engine.answer = lambda _: LocalError("no_credits", "No.")
    assert (await entrance.refusal("a")).type == "no_credits"
    assert [key.prompt_id for key, _ in entrance.engine.released] == ["a"]


async def test_an_id_lives_once(entrance: Entrance) -> None:
    await entrance.submit("a")
    refusal = await entrance.refusal("a")
    assert (refusal.type, refusal.kind) == ("duplicate_prompt_id", "conflict")
    assert len(entrance.engine.received) == 1


async def test_a_job_that_the_engine_does_not_accept_in_time_is_withdrawn(
    entrance: Entrance,
) -> None:
    entrance.engine.answer = lambda _: None
    entrance.service.timeout = 0.0
    assert (await entrance.refusal("a")).type == "submission_withdrawn"
    assert await entrance.repository.get(MEMBER, "a") is None


async def test_a_job_that_cannot_be_withdrawn_now_may_run_later(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def withdraw(*_: Any, **__: Any) -> bool:
        raise StorageError("away")

    entrance.engine.answer = lambda _: None
    entrance.service.timeout = 0.0
    monkeypatch.setattr(entrance.repository, "withdraw", withdraw)
    refusal = await entrance.refusal("a")
    assert refusal.kind == "unconfirmed"
    assert "may run later" in refusal.message


async def test_a_job_that_is_accepted_by_then_is_not_withdrawn(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrance.engine.answer = lambda _: None
    entrance.service.timeout = 0.0
    withdraw = entrance.repository.withdraw

    async def accepted_first(order: int, **also: Any) -> bool:
        await entrance.repository.update([(order, {"state": "queued", "accepted": True})])
        return await withdraw(order, **also)

    monkeypatch.setattr(entrance.repository, "withdraw", accepted_first)
    assert (await entrance.submit("a"))["prompt_id"] == "a"


async def test_a_job_that_the_engine_refuses_meanwhile_has_its_refusal(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a process has slept: the time is over, and the cloud's answer there."""
    refused = LocalError("no_credits", "No credits are left.")
    engine, withdraw = entrance.engine, entrance.repository.withdraw
    engine.answer = lambda _: None
    entrance.service.timeout = 0.01

    async def refused_first(order: int, **also: Any) -> bool:
        assert await withdraw(order)
        asyncio.get_running_loop().call_soon(engine.answered[-1].set_result, refused)
        return await withdraw(order, **also)

    monkeypatch.setattr(entrance.repository, "withdraw", refused_first)
    assert (await entrance.refusal("a")).type == "no_credits"


async def test_nothing_is_looked_at_while_jobs_come_too_fast(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(entrance.repository.database), "busy", property(lambda _: True))
    with pytest.raises(BusyError):
        await entrance.submit()
    assert entrance.engine.received == []


@pytest.mark.parametrize("limits", [Limits(jobs_per_day=1), Limits(max_queued=1)])
async def test_a_member_has_its_limits(entrance: Entrance) -> None:
    await entrance.submit("a")
    assert (await entrance.refusal("b")).kind in ("rate_limited", "unavailable")
    assert await entrance.repository.get(MEMBER, "b") is None


async def test_payloads_are_shared_and_the_history_gives_way(
    entrance: Entrance, database: Database
) -> None:
    entrance.service.limits.payloads = Pool(100_000, 1)
    data = {"data": "x" * 20_000}
    for id_ in "ab":
        await entrance.submit(id_, extra_data=data)
    refusal = await entrance.refusal("c", extra_data=data)
    assert (refusal.type, refusal.kind) == ("payloads_full", "rate_limited")
    jobs = entrance.repository
    for id_ in "ab":
        row = await jobs.get(MEMBER, id_)
        assert row is not None
        await jobs.finish(ended(row), keep=10)
    assert (await entrance.refusal("c", extra_data={"data": "x" * 60_000})).type == "payloads_full"
    assert await jobs.history.entry(MEMBER, "a") is not None
    await entrance.submit("d", extra_data=data)
    assert await database.read(lambda c: payload_bytes(c, MEMBER)) < (45_000, 45_000)
    row = await jobs.get(MEMBER, "d")
    assert row is not None
    await jobs.discard([row.order])
    await jobs.history.forget(MEMBER)
    assert await database.read(lambda c: payload_bytes(c, MEMBER)) == (0, 0)


async def test_limits_that_change_during_the_checks_count(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(*_: object) -> None:
        entrance.limits = Limits(jobs_per_day=1)

    await entrance.submit("a")
    monkeypatch.setattr(entrance.service.checks, "check", check)
    assert (await entrance.refusal("b")).details == "jobs_per_day"
    assert await entrance.repository.get(MEMBER, "b") is None


@pytest.mark.parametrize("listens", [True, False])
async def test_the_engine_learns_at_the_release_whether_the_client_listens(
    entrance: Entrance, listens: bool
) -> None:
    entrance.clients.opened(MEMBER, "c" if listens else "d")
    await entrance.submit("a", client_id="c")
    assert entrance.engine.released == [(JobKey(MEMBER, "a"), listens)]
