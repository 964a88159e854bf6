"""Intervals that only grow, and what they are made of, in each database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.storage.activity import AccountRow, ActivityRepository, ActivityRow, JobTimes
from proxy.storage.database import Database
from proxy.storage.history import EndedJob
from proxy.storage.jobs import JobRepository, Payload, StoredJob

ROW = ActivityRow(300, "anna", running=2, waiting=5, completed=3, failed=1, busy=7.5)
ACCOUNT = AccountRow(300, "main", slots=3, used=2)


@pytest.fixture
def repository(database: Database) -> ActivityRepository:
    return ActivityRepository(database)


async def test_an_interval_keeps_the_most(repository: ActivityRepository) -> None:
    await repository.put([ROW], [ACCOUNT], forget=0)
    later = replace(ROW, running=1, failed=2, busy=8.0)
    await repository.put([later], [replace(ACCOUNT, used=0, reason="dead_key")], forget=0)
    await repository.put([ROW], [ACCOUNT], forget=0)
    assert await repository.rows(0, "anna") == [replace(ROW, failed=2, busy=8.0)]
    assert await repository.accounts(0) == [replace(ACCOUNT, reason="dead_key")]


async def test_a_member_is_told_the_own_and_old_intervals_are_forgotten(
    repository: ActivityRepository,
) -> None:
    everybody = replace(ROW, member="")
    await repository.put([ROW, everybody, replace(ROW, at=0)], [ACCOUNT], forget=0)
    assert await repository.rows(0) == [everybody]
    assert await repository.rows(1, "anna") == [ROW]
    assert await repository.rows(0, "ben") == []
    await repository.put([], [], forget=300)
    assert await repository.rows(0, "anna") == [ROW]
    await repository.put([], [], forget=301)
    assert (await repository.rows(0, "anna"), await repository.accounts(0)) == ([], [])


async def test_the_times_of_jobs_that_live_and_have_ended(
    database: Database, repository: ActivityRepository
) -> None:
    jobs = JobRepository(database)
    payload = Payload(b"{}", b"{}")
    for id_, end in (("old", 1000), ("new", 3000)):
        one = StoredJob("anna", id_, "queued", 0, created_at=500, changed_at=500)
        key = (await jobs.insert(one, payload)).key
        ended = EndedJob("failed", 700, end, b"{}", b"{}", [])
        await jobs.finish(key, ended, keep=10)
    for id_, accepted in (("waits", True), ("unanswered", False)):
        one = StoredJob("ben", id_, "queued", 0, 2000, 2000, accepted=accepted)
        await jobs.insert(one, payload)
    assert await repository.times(2000) == [
        JobTimes("anna", "failed", 500, 700, 3000),
        JobTimes("ben", "queued", 2000, None, None),
    ]
