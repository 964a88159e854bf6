"""What clients read of live jobs, and what comes from the storage where the bus has lost it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from jobs.replica import Replica
from jobs.samples import MEMBER
from waiting import until

from proxy.budget import MemoryBudget
from proxy.jobs.conversion import stored_of
from proxy.jobs.messages import JobProgress
from proxy.jobs.models import JobState
from proxy.jobs.replica_jobs import ReplicaJobs
from proxy.storage.job_tables import StoredJob
from proxy.supervisor import Supervisor


async def test_what_is_received_while_two_read_at_once_is_kept(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, doors = replica.repository.live, [asyncio.Event(), asyncio.Event()]
    waiting = list(doors)

    async def live(member: str | None = None) -> list[StoredJob]:
        rows = await read(member)
        await waiting.pop(0).wait()
        return rows

    monkeypatch.setattr(replica.repository, "live", live)
    first, second = (asyncio.create_task(replica.live.reload()) for _ in doors)
    await until(lambda: not waiting)
    doors[1].set()
    done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    job = await replica.insert()
    replica.live.of(MEMBER).put(stored_of(job), JobProgress())
    doors[0].set()
    living, gone = await next(answer for answer in (first, second) if answer not in done)
    assert (living, gone) == ({job.order}, [])
    assert "p" in replica.live.of(MEMBER).jobs


async def test_the_storage_tells_which_jobs_live(replica: Replica) -> None:
    stays, leaves = await replica.insert("stays"), await replica.insert("leaves")
    replica.live.of(MEMBER).put(stored_of(leaves), JobProgress())
    await replica.repository.discard([leaves.order])
    await replica.insert("unanswered", accepted=False, state=JobState.RECEIVED)
    await replica.insert("unwanted", cancel_requested=True)
    running = await replica.insert("running", cancel_requested=True, state=JobState.RUNNING)
    await replica.live.reload()
    assert [job.order for job in replica.live] == [stays.order, running.order]


async def test_of_storage_and_bus_the_newer_word_counts(replica: Replica) -> None:
    job = await replica.insert()
    job.state, job.revision = JobState.SUBMITTING, 5
    replica.live.of(MEMBER).put(stored_of(job), JobProgress())
    await replica.repository.update([(job.order, {"revision": 4})])
    await replica.live.reload()
    assert [row.state for row in replica.live] == [JobState.SUBMITTING]
    await replica.repository.update([(job.order, {"revision": 6})])
    await replica.live.reload()
    assert [row.state for row in replica.live] == [JobState.QUEUED]


async def test_what_the_bus_says_during_a_reading_is_newer(replica: Replica) -> None:
    ended = await replica.insert("ended")
    new = stored_of(await replica.insert("new"))
    read = replica.repository.live

    async def late(member: str | None = None) -> Any:
        rows = await read(member)
        replica.live.of(MEMBER).put(stored_of(ended), JobProgress())
        replica.live.remove(ended.key, ended.order)
        replica.live.of(MEMBER).put(new, JobProgress())
        return [row for row in rows if row.prompt_id != "new"]

    replica.repository.live = late  # type: ignore[method-assign]
    living, gone = await replica.live.reload()
    assert list(replica.live) == [new]
    assert (new.order in living, gone) == (True, [])


async def test_while_the_bus_is_away_an_answer_comes_from_the_storage(replica: Replica) -> None:
    job = await replica.insert()
    assert (await replica.live.now(MEMBER)).jobs == {}
    replica.bus.away = True
    assert set((await replica.live.now(MEMBER)).jobs) == {job.prompt_id}


@pytest.mark.parametrize("during", [False, True], ids=["after the reading", "during it"])
async def test_a_job_that_has_left_is_not_shown_as_unanswered(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, during: bool
) -> None:
    """Its row may have said so when it was read, a moment before the job left the queue."""
    jobs = ReplicaJobs(replica.repository, MemoryBudget(1 << 30), replica.bus, Supervisor())
    job = stored_of(await replica.insert(accepted=False, state=JobState.SUBMITTED))
    read = replica.repository.unanswered

    async def unanswered() -> list[StoredJob]:
        rows = await read()
        if during:
            jobs.remove(job.key, job.order)
        return rows

    monkeypatch.setattr(replica.repository, "unanswered", unanswered)
    _, shown = await jobs.picture(MEMBER)
    assert shown == ([] if during else [job])
    jobs.remove(job.key, job.order)
    _, shown = await jobs.picture(MEMBER)
    assert shown == []


async def test_a_job_that_left_while_the_bus_is_behind_is_not_shown_as_unanswered(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = stored_of(await replica.insert(accepted=False, state=JobState.SUBMITTED))
    assert (await replica.live.picture(MEMBER))[1] == [job]

    async def catch_up() -> bool:
        return False

    monkeypatch.setattr(replica.bus, "catch_up", catch_up)
    await replica.repository.discard([job.order])
    assert (await replica.live.picture(MEMBER))[1] == []


async def test_a_reading_that_began_before_a_job_came_does_not_answer_who_asks_for_it(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.bus.away = True
    read, doors, readings = replica.repository.unanswered, asyncio.Event(), []

    async def unanswered() -> list[StoredJob]:
        rows = await read()
        readings.append(rows)
        await doors.wait()
        return rows

    monkeypatch.setattr(replica.repository, "unanswered", unanswered)
    before = asyncio.create_task(replica.live.picture(MEMBER))
    await until(lambda: readings)
    job = stored_of(await replica.insert(accepted=False, state=JobState.RECEIVED))
    after = asyncio.create_task(replica.live.picture(MEMBER))
    doors.set()
    assert (await before)[1] == []
    assert (await after)[1] == [job]
