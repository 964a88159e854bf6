"""What members have spent, and that two units do not spend the same credit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import date, timedelta

import pytest
from databases import other_connection
from storage.samples import PAYLOAD, ended, job

from proxy.storage.budget_notices import BudgetNotice
from proxy.storage.conditions import Conditions, Numbering
from proxy.storage.database import Database, StorageError
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.spending import Spending, days_of_month
from proxy.storage.usage import UsageRepository, UsageRow

DAY = "2026-11-28"
#: Noon of this day, in ms.
NOON = 1_795_867_200_000


class NoCreditError(StorageError):
    """The job would cost too much."""


@dataclass
class Wallet:
    """A decision for jobs that cost the `estimate`, where `limit` is not exceeded, and what it was
    asked."""

    limit: int = 10**9
    estimate: int = 10
    day: str = DAY
    asked: list[Spending] = field(default_factory=list)

    def check(self, spending: Spending) -> None:
        self.asked.append(spending)
        if spending.day + spending.reserved + self.estimate > self.limit:
            raise NoCreditError("no credit is left")


@pytest.fixture
def jobs(database: Database) -> JobRepository:
    return JobRepository(database)


async def put(jobs: JobRepository, wallet: Wallet, id_: str, member: str = "anna") -> StoredJob:
    new = job(id_, member)
    conditions = Conditions(numbering=Numbering(0), decision=wallet)
    return await jobs.insert(new, PAYLOAD, conditions)


async def finish(jobs: JobRepository, stored: StoredJob, cost: int, day: str = DAY) -> Spending:
    """What the member has spent with the job, which ends."""
    usage = UsageRow(day, stored.member, completed=1, credits_estimated=cost)
    seen: list[Spending] = []

    def look(spent: Spending) -> list[BudgetNotice]:
        seen.append(spent)
        return []

    await jobs.finish(ended(stored, at=NOON), EngineWrite(usage=[usage]), keep=10, budgets=look)
    return seen[-1]


async def test_a_job_is_reserved_until_its_end_which_corrects_the_estimate(
    jobs: JobRepository,
) -> None:
    wallet = Wallet()
    first = await put(jobs, wallet, "a")
    assert first.estimate == 10
    assert await jobs.get("anna", "a") == first
    second = await put(jobs, wallet, "b")
    assert wallet.asked == [Spending(), Spending(reserved=10)]
    assert await finish(jobs, first, 25) == Spending(25, 25, reserved=10)
    await put(jobs, wallet, "c")
    assert wallet.asked[-1] == Spending(25, 25, 10)
    assert await jobs.spending(DAY) == {"anna": Spending(25, 25, 20)}
    await jobs.discard([second.order])
    assert await jobs.spending(DAY, "anna") == {"anna": Spending(25, 25, 10)}
    assert await jobs.spending(DAY, "ben") == {}


async def test_a_refused_job_leaves_no_trace(jobs: JobRepository, database: Database) -> None:
    usage = UsageRow(DAY, "anna", submitted=1)
    with pytest.raises(NoCreditError):
        await jobs.insert(job(), PAYLOAD, Conditions(usage, decision=Wallet(limit=9)))
    assert await jobs.live() == []
    assert await UsageRepository(database).days(DAY, DAY) == []
    assert await jobs.spending(DAY) == {}


@pytest.mark.parametrize("numbering", [Numbering(0), None])
async def test_of_many_jobs_at_once_none_spends_what_another_has(
    jobs: JobRepository, database: Database, numbering: Numbering | None
) -> None:
    async with other_connection(database) as other:
        both = jobs, JobRepository(other)
        tries = await asyncio.gather(
            *(
                both[number % 2].insert(
                    job(str(number)),
                    PAYLOAD,
                    Conditions(numbering=numbering, decision=Wallet(limit=35)),
                )
                for number in range(12)
            ),
            return_exceptions=True,
        )
    refused = [attempt for attempt in tries if isinstance(attempt, BaseException)]
    assert all(isinstance(attempt, NoCreditError) for attempt in refused)
    assert len(tries) - len(refused) == 3


async def test_a_month_is_that_of_the_day_whatever_other_members_spend(
    jobs: JobRepository, database: Database
) -> None:
    days = {"2026-10-31": 1, "2026-11-01": 2, DAY: 4, "2026-11-30": 8, "2026-12-01": 16}
    await UsageRepository(database).add(
        [UsageRow(day, "anna", credits_reported=amount) for day, amount in days.items()]
        + [UsageRow(DAY, "ben", credits_estimated=1000)]
    )
    wallet = Wallet()
    await put(jobs, wallet, "a")
    assert wallet.asked == [Spending(day=4, month=14)]
    await put(jobs, wallet, "b", "ben")
    assert await jobs.spending(DAY) == {
        "anna": Spending(4, 14, 10),
        "ben": Spending(1000, 1000, 10),
    }


def test_the_days_of_every_month_are_whole() -> None:
    first = date(2027, 12, 31)
    for number in range(800):
        day = first + timedelta(days=number)
        days = days_of_month(day.isoformat())
        assert day.isoformat() in days
        assert (date.fromisoformat(days[-1]) + timedelta(days=1)).day == 1
        assert [found[8:] for found in days] == [f"{n:02}" for n in range(1, len(days) + 1)]


async def test_a_claim_keeps_what_a_job_may_cost_and_is_refused_without_a_trace(
    jobs: JobRepository,
) -> None:
    first, second = [await jobs.insert(job(name), PAYLOAD) for name in "ab"]
    spent = await jobs.claim("anna", first.order, "submitting", Wallet(estimate=5), 40)
    assert spent == Spending()
    with pytest.raises(NoCreditError):
        await jobs.claim("anna", second.order, "submitting", Wallet(limit=9), 40)
    found = {row.prompt_id: (row.state, row.estimate, row.ceiling) for row in await jobs.live()}
    assert found == {"a": ("submitting", 5, 40), "b": ("queued", 0, 0)}


async def test_an_estimate_follows_the_runs_of_its_shape_while_the_job_waits(
    jobs: JobRepository,
) -> None:
    for name, fields in {
        "waits": {},
        "runs": {"state": "running"},
        "other": {"shape": "t"},
        "bob's": {"member": "bob"},
    }.items():
        new = job(name, **{"shape": "s", "partner_nodes": 2, **fields})
        await jobs.insert(new, PAYLOAD)
    await jobs.reestimate("anna", "s", 10)
    found = {row.prompt_id: row.estimate for row in await jobs.live()}
    assert found == {"waits": 12, "runs": 0, "other": 0, "bob's": 0}
