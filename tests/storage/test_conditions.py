"""The conditions of new jobs, in each database."""

from __future__ import annotations

import asyncio

import pytest
from databases import other_connection
from storage.samples import PAYLOAD, job

from proxy.storage.conditions import Conditions, DayFullError, Numbering, QueueFullError
from proxy.storage.database import Database
from proxy.storage.jobs import JobRepository
from proxy.storage.usage import UsageRepository, UsageRow


@pytest.fixture
def jobs(database: Database) -> JobRepository:
    return JobRepository(database)


async def test_numbers_grow_and_are_negative_in_front(jobs: JobRepository) -> None:
    numbers = []
    for numbering in (
        *(Numbering(0), Numbering(0), Numbering(7)),
        *(Numbering(0, front=True), Numbering(9), None),
    ):
        new = job(str(len(numbers)), number=2.5)
        stored = await jobs.insert(new, PAYLOAD, Conditions(numbering=numbering))
        numbers.append(stored.number)
        assert await jobs.get("anna", new.prompt_id) == stored
    assert numbers == [0, 1, 7, -8, 9, 2.5]


async def test_a_job_for_which_there_is_no_room_is_not_counted(
    jobs: JobRepository, database: Database
) -> None:
    await jobs.insert(job("a"), PAYLOAD)
    with pytest.raises(QueueFullError) as refused:
        await jobs.insert(
            job("b"), PAYLOAD, Conditions(UsageRow("2026-01-01", "anna", 1), max_waiting=1)
        )
    assert refused.value.waiting == 1
    assert await UsageRepository(database).days("2026-01-01", "2026-01-01") == []


async def test_jobs_with_all_tokens_count_against_the_limit_of_the_day(
    jobs: JobRepository, database: Database
) -> None:
    async with other_connection(database) as other:
        both = jobs, JobRepository(other)
        tries = await asyncio.gather(
            *(
                both[number % 2].insert(
                    job(str(number)),
                    PAYLOAD,
                    Conditions(UsageRow("2026-01-01", "anna", 1, token=str(number)), max_per_day=3),
                )
                for number in range(8)
            ),
            return_exceptions=True,
        )
    refused = [attempt for attempt in tries if isinstance(attempt, DayFullError)]
    assert len(refused) == 8 - 3


async def test_no_more_jobs_wait_or_are_submitted_a_day_than_may(
    jobs: JobRepository, database: Database
) -> None:
    usage = UsageRow("2026-01-01", "anna", 1)
    async with other_connection(database) as other:
        both = jobs, JobRepository(other)
        for limit, error in (
            ({"max_waiting": 3}, QueueFullError),
            ({"max_per_day": 5}, DayFullError),
        ):
            tries = await asyncio.gather(
                *(
                    both[number % 2].insert(
                        job(f"{error.__name__} {number}"), PAYLOAD, Conditions(usage, **limit)
                    )
                    for number in range(12)
                ),
                return_exceptions=True,
            )
            refused = [attempt for attempt in tries if isinstance(attempt, BaseException)]
            assert all(isinstance(attempt, error) for attempt in refused)
            expected = {"max_waiting": 3, "max_per_day": 5 - 3}
            assert len(tries) - len(refused) == sum(expected[name] for name in limit)
        await jobs.insert(job(state="running"), PAYLOAD)
        await jobs.insert(job("b", member="ben"), PAYLOAD, Conditions(usage, max_waiting=1))
        assert await both[1].used("anna", "2026-01-01") == (5, 6)
        assert await both[1].used("anna", "2026-01-02") == (5, 0)
