"""The activity of the last week: what was at once in each interval, and what ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backend import open_database
from hypothesis import given
from hypothesis import strategies as st

from proxy.jobs.activity import (
    INTERVAL,
    KEPT,
    Sampler,
    aggregate,
    folded,
    folded_accounts,
)
from proxy.jobs.models import AccountView
from proxy.storage.usage import AccountRow, ActivityRepository, ActivityRow, JobTimes


def job(
    created: int, started: int | None = None, ended: int | None = None, **more: str
) -> JobTimes:
    return JobTimes(
        more.get("member", "anna"), more.get("state", "succeeded"), created, started, ended
    )


def rows(
    *jobs: JobTimes, start: int = 0, stop: int = 100, member: str = "anna"
) -> list[ActivityRow]:
    return [row for row in aggregate(jobs, start, stop, interval=10) if row.member == member]


@pytest.mark.parametrize(
    ("jobs", "intervals"),
    [
        ([], []),
        ([job(1, 2, 5)], [(0, 1, 1, 1, 0)]),
        ([job(5, 15, 25)], [(0, 0, 1, 0, 0), (10, 1, 1, 0, 0), (20, 1, 0, 1, 0)]),
        ([job(1, 2, 5), job(4, 5, 9)], [(0, 1, 1, 2, 0)]),
        ([job(1, 2, 5), job(1, 4, 6)], [(0, 2, 2, 2, 0)]),
        ([job(92)], [(90, 0, 1, 0, 0)]),
        ([job(82, 91)], [(80, 0, 1, 0, 0), (90, 1, 1, 0, 0)]),
        ([job(3, 3, 3, state="failed")], [(0, 0, 0, 0, 1)]),
        ([job(1, 2, 5, state="cancelled")], [(0, 1, 1, 0, 0)]),
        ([job(1, 2, 5, member="ben")], []),
    ],
)
def test_what_was_at_once_and_what_ended(
    jobs: list[JobTimes], intervals: list[tuple[int, ...]]
) -> None:
    found = rows(*jobs)
    listed = [(row.at, row.running, row.waiting, row.completed, row.failed) for row in found]
    assert listed == intervals


def test_everybody_together_is_not_the_sum_of_the_most_of_each() -> None:
    both = job(0, 1, 4), job(0, 5, 8, member="ben")
    (everybody,) = rows(*both, member="")
    assert (everybody.running, everybody.completed, everybody.busy) == (1, 2, 0.006)


def test_what_was_before_the_start_does_not_count() -> None:
    assert [row.at for row in rows(job(1, 5, 45), start=20)] == [20, 30, 40]


_TIMES = st.tuples(st.integers(0, 90), st.integers(0, 30), st.integers(0, 30)).map(
    lambda parts: job(parts[0], parts[0] + parts[1], parts[0] + parts[1] + parts[2])
)


@given(st.lists(_TIMES, max_size=8))
def test_no_interval_has_more_than_there_were(jobs: list[JobTimes]) -> None:
    found = rows(*jobs)
    for row in found:
        at_once = max(
            sum(job.started_at <= at < job.ended_at for job in jobs)  # type: ignore[operator]
            for at in range(row.at, row.at + 10)
        )
        assert row.running == (at_once if row.at < 90 else row.running)
        assert row.busy * 1000 <= len(jobs) * 10 + 1
    ended = [job for job in jobs if job.ended_at is not None]
    assert sum(row.completed for row in found) == len(ended)


class Bench:
    """A sampler over a database, with a clock and jobs that a test sets."""

    def __init__(self, repository: ActivityRepository) -> None:
        self.repository = repository
        self.puts = 0
        self.now = 1_000_000_000.0
        self.account = AccountView("main", 3, 1, None, None, True)
        put = repository.put

        async def counted(*rows: Any, **more: Any) -> None:
            self.puts += 1
            await put(*rows, **more)

        repository.put = counted  # type: ignore[method-assign]
        self.sampler = Sampler(
            repository, self.accounts, is_active=lambda: True, clock=lambda: self.now
        )

    async def accounts(self) -> list[AccountView]:
        return [self.account]


async def test_the_same_is_written_once_and_the_day_is_bounded(tmp_path: Path) -> None:
    database = await open_database(tmp_path)
    bench = Bench(ActivityRepository(database))
    at = int(bench.now * 1000) // INTERVAL * INTERVAL
    await bench.sampler.sample()
    await bench.sampler.sample()
    assert bench.puts == 1
    bench.account = AccountView("main", 3, 2, "dead_key", None, True)
    await bench.sampler.sample()
    bench.account = AccountView("main", 3, 0, None, None, True)
    await bench.sampler.sample()
    assert await bench.repository.accounts(0) == [AccountRow(at, "main", 3, 2, "dead_key")]
    bench.now += (KEPT + 2 * INTERVAL) / 1000
    await bench.sampler.sample()
    assert [row.at for row in await bench.repository.accounts(0)] == [at + KEPT + 2 * INTERVAL]
    await database.close()


async def test_another_engine_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    database = await open_database(tmp_path)
    repository = ActivityRepository(database)
    before = Bench(repository)
    at = int(before.now * 1000) // INTERVAL * INTERVAL
    asked: list[int] = []
    times = repository.times

    async def noted(since: int, _member: str | None = None) -> list[JobTimes]:
        asked.append(since)
        return await times(since)

    repository.times = noted  # type: ignore[method-assign]
    await before.sampler.sample()
    after = Bench(repository)
    after.now += 7200
    await after.sampler.sample()
    await after.sampler.sample()
    assert asked == [at - KEPT, at - INTERVAL, at + 7_200_000 - INTERVAL]
    await database.close()


def test_hours_have_the_most_and_the_sums_of_their_intervals() -> None:
    at = 3_600_000
    stored = [
        ActivityRow(at, "", 2, 0, 1, 1, 1.5),
        ActivityRow(at + INTERVAL, "", 1, 4, 2, 0, 0.25),
        ActivityRow(2 * at, "", 1),
    ]
    assert folded(stored, at) == [
        ActivityRow(at, "", 2, 4, 3, 1, 1.75),
        ActivityRow(2 * at, "", 1),
    ]
    accounts = [
        AccountRow(at, "main", 3, 1, "dead_key"),
        AccountRow(at, "other", 1, 1),
        AccountRow(at + INTERVAL, "main", 5, 0),
    ]
    assert folded_accounts(accounts, at) == [
        AccountRow(at, "main", 5, 1, "dead_key"),
        AccountRow(at, "other", 1, 1),
    ]
