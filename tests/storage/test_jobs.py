"""Live jobs, in each database."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from msgspec.structs import replace
from storage.samples import PAYLOAD, ended, entries, ids, job

from proxy.storage.conditions import Conditions, Numbering
from proxy.storage.database import Database, FencedError
from proxy.storage.history import PAGE, Recorded
from proxy.storage.job_tables import HistoryEntry, StoredJob
from proxy.storage.jobs import EngineWrite, JobLivesError, JobRepository
from proxy.storage.leases import ENGINE, Fence, LeaseRepository
from proxy.storage.shares import Share, Shares
from proxy.storage.usage import UsageRepository, UsageRow


@pytest.fixture
def jobs(database: Database) -> JobRepository:
    return JobRepository(database)


# --- jobs that live ------------------------------------------------------------------------


async def test_an_id_that_lives_is_refused_and_nothing_written(jobs: JobRepository) -> None:
    await jobs.insert(job(), PAYLOAD)
    conditions = Conditions(UsageRow("2026-01-01", "anna", 1))
    with pytest.raises(JobLivesError):
        await jobs.insert(job(number=5), PAYLOAD, conditions)
    await jobs.insert(job(member="ben"), PAYLOAD)
    assert [(row.member, row.number) for row in await jobs.live()] == [("anna", 0), ("ben", 0)]
    assert [row.member for row in await jobs.live("ben")] == ["ben"]


async def test_of_many_with_one_id_at_once_one_is_taken_in(jobs: JobRepository) -> None:
    results = await asyncio.gather(
        *(jobs.insert(job(number=number), PAYLOAD) for number in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, StoredJob) for result in results) == 1


async def test_changes_are_written_and_the_rest_stays(jobs: JobRepository) -> None:
    one = job(client_id="c")
    order = (await jobs.insert(one, PAYLOAD)).order
    other = (await jobs.insert(job("b"), PAYLOAD)).order
    changes = {"state": "running", "started_at": 7, "outputs_to_execute": ("3",)}
    others = {"state": "submitted", "started_at": None, "outputs_to_execute": ()}
    assert await jobs.update([(order, changes), (other, others)]) == set()
    assert await jobs.get("anna", "a") == replace(one, order=order, **changes)
    assert await jobs.get("anna", "b") == replace(job("b"), order=other, **others)


async def test_a_job_of_a_leader_whose_term_is_over_is_not_stored(
    jobs: JobRepository, database: Database
) -> None:
    leases = LeaseRepository(database)
    before = await leases.acquire(ENGINE, "before", 60)
    assert before is not None
    await leases.release(before)
    now = await leases.acquire(ENGINE, "now", 60)
    assert now is not None
    with pytest.raises(FencedError):
        await jobs.insert(job(), PAYLOAD, fence=before.fence)
    assert await jobs.received() == []
    await jobs.insert(job(), PAYLOAD, fence=now.fence)


async def test_changes_of_jobs_that_are_gone_are_reported(jobs: JobRepository) -> None:
    order = (await jobs.insert(job(), PAYLOAD)).order
    state = {"state": "running"}
    assert await jobs.update([(12346, state), (order, state), (12345, state)]) == {12345, 12346}
    assert await jobs.get("anna", "a") == replace(job(), order=order, **state)


async def test_a_discarded_job_leaves_no_trace(jobs: JobRepository, database: Database) -> None:
    order = (await jobs.insert(job(), PAYLOAD)).order
    await jobs.discard([order], EngineWrite(usage=[UsageRow("2026-01-01", "anna", withdrawn=1)]))
    assert await jobs.live() == []
    assert await jobs.payloads.get(order) is None
    (row,) = await UsageRepository(database).days("2026-01-01", "2026-01-01")
    assert row.withdrawn == 1


async def test_a_withdrawn_job_leaves_no_trace(jobs: JobRepository, database: Database) -> None:
    order = (await jobs.insert(job(state="received"), PAYLOAD)).order
    assert await jobs.withdraw(order, usage=[UsageRow("2026-01-01", "anna", withdrawn=1)])
    assert await jobs.live() == []
    assert await jobs.payloads.get(order) is None
    (row,) = await UsageRepository(database).days("2026-01-01", "2026-01-01")
    assert row.withdrawn == 1
    assert not await jobs.withdraw(order, usage=[UsageRow("2026-01-01", "anna", withdrawn=1)])
    assert await UsageRepository(database).days("2026-01-01", "2026-01-01") == [row]


async def test_a_job_that_the_engine_has_started_is_not_withdrawn(jobs: JobRepository) -> None:
    stored = await jobs.insert(job(), PAYLOAD)
    assert not await jobs.withdraw(stored.order)
    assert await jobs.live() == [stored]
    assert await jobs.payloads.get(stored.order) == PAYLOAD


# --- the end -------------------------------------------------------------------------------


async def test_an_end_is_one_unit_with_usage_and_shares(
    jobs: JobRepository, database: Database
) -> None:
    stored = await jobs.insert(job(number=3, cloud_id="c1"), PAYLOAD)
    before = database.units
    state = Shares(2.5, {"anna": Share(3.0, 10.0)}, {"main": 3})
    usage = [UsageRow("2026-01-01", "anna", completed=1, running_seconds=1.5)]
    recorded = await jobs.finish(ended(stored), EngineWrite(usage=usage, shares=state), keep=10)
    assert recorded == Recorded()
    assert database.units - before == 1
    assert await jobs.live() == []
    assert await jobs.history.entry("anna", "a") == HistoryEntry(
        order=stored.order,
        member="anna",
        prompt_id="a",
        sequence=1,
        state="succeeded",
        number=3,
        created_at=1000,
        started_at=2000,
        ended_at=3000,
        outputs_to_execute=("9",),
        summary=b'{"id": "a"}',
        result=b'{"outputs": {}}',
        cloud_id="c1",
        graph=PAYLOAD.graph,
        extra_data=PAYLOAD.extra_data,
    )
    assert await jobs.load_shares() == state
    assert await UsageRepository(database).days("2026-01-01", "2026-01-01") == usage
    assert await jobs.knows(["c1", "c2"]) == {"c1"}


async def test_an_end_is_written_once(jobs: JobRepository, database: Database) -> None:
    stored = await jobs.insert(job(), PAYLOAD)
    usage = [UsageRow("2026-01-01", "anna", completed=1)]
    await jobs.finish(ended(stored), EngineWrite(usage=usage), keep=10)
    assert (
        await jobs.finish(ended(stored, "failed"), EngineWrite(usage=usage), keep=10) == Recorded()
    )
    assert [entry.state for entry in await entries(jobs)] == ["succeeded"]
    assert (await entries(jobs))[0].graph == PAYLOAD.graph
    other = await jobs.insert(job("b"), PAYLOAD)
    await jobs.finish(ended(other), keep=10)
    (row,) = await UsageRepository(database).days("2026-01-01", "2026-01-01")
    assert row.completed == 1


async def test_jobs_that_end_at_once_have_places_of_their_own(jobs: JobRepository) -> None:
    names = [f"j{number:03}" for number in range(2 * PAGE)]
    stored = [await jobs.insert(job(name), PAYLOAD) for name in names]
    for start in range(0, len(stored), 8):
        some = stored[start : start + 8]
        await asyncio.gather(*(jobs.finish(ended(row), keep=1000) for row in some))
    found = await entries(jobs)
    assert sorted(entry.prompt_id for entry in found) == names
    assert [entry.sequence for entry in found] == [*range(1, len(names) + 1)]


async def test_an_id_is_submitted_again_while_it_ends(jobs: JobRepository) -> None:
    conditions = Conditions(numbering=Numbering(0))
    for _ in range(20):
        stored = await jobs.insert(job(), PAYLOAD, conditions)
        again = asyncio.create_task(jobs.insert(job(), PAYLOAD, conditions))
        await jobs.finish(ended(stored), keep=1000)
        with suppress(JobLivesError):
            await again
        for row in await jobs.live("anna"):
            await jobs.finish(ended(row), keep=1000)
    assert await ids(jobs) == ["a"]


# --- the fence -----------------------------------------------------------------------------


async def test_a_writer_whose_lease_is_over_changes_nothing(
    jobs: JobRepository, database: Database
) -> None:
    leases = LeaseRepository(database)
    mine = await leases.acquire(ENGINE, "one", 60)
    assert mine is not None
    stored = await jobs.insert(job(), PAYLOAD)
    order = stored.order
    theirs = await leases.acquire(ENGINE, "two", 60, alone=True)
    assert theirs is not None
    for write in (
        jobs.update([(order, {"state": "running"})], EngineWrite(mine.fence)),
        jobs.discard([order], EngineWrite(mine.fence)),
        jobs.finish(ended(stored), EngineWrite(mine.fence), keep=1),
        jobs.update([], EngineWrite(Fence("nobody's", 1))),
    ):
        with pytest.raises(FencedError, match="another process"):
            await write
    await jobs.update([(order, {"state": "running"})], EngineWrite(theirs.fence))
    assert [(row.prompt_id, row.state) for row in await jobs.live()] == [("a", "running")]
