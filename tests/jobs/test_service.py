"""A member's jobs as clients poll them and end them, and the activity of the last day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from backend import open_database
from hypothesis import given
from hypothesis import strategies as st
from jobs.samples import MEMBER, Room, job, new

from proxy.jobs.models import AccountView, Job, JobState
from proxy.jobs.service import (
    INTERVAL,
    KEPT,
    JobQuery,
    Sampler,
    aggregate,
    ended_states,
    interrupted,
    select,
)
from proxy.storage.usage import AccountRow, ActivityRepository, ActivityRow, JobTimes


async def test_the_queue_is_shown_in_comfyuis_tuples(room: Room) -> None:
    room.put(new("late", 7))
    room.put(new("first", -1))
    room.put(new("running", 3, state=JobState.RUNNING, started_at=1))
    shown = json.loads(await room.service.queue_json(MEMBER))
    item = [3, "running", {"1": {"class_type": "X"}}, {"client_id": "c"}, ["1"]]
    assert shown["queue_running"] == [item]
    assert [entry[1] for entry in shown["queue_pending"]] == ["first", "late"]


async def test_the_queue_is_written_once_until_it_changes(room: Room) -> None:
    job = room.put(new("a"))
    before = await room.service.queue_json(MEMBER)
    assert await room.service.queue_json(MEMBER) is before
    room.remove(job)
    assert await room.service.queue_json(MEMBER) != before


async def test_between_its_end_and_leaving_the_queue_a_job_is_in_both(room: Room) -> None:
    room.put(new("a"))
    await room.end("a")
    assert b'"a"' in await room.service.queue_json(MEMBER)
    assert b'"a"' in await room.history()
    jobs = (await room.listed(JobQuery()))["jobs"]
    assert [job["status"] for job in jobs] == ["completed"]


async def test_jobs_are_listed_newest_first_with_the_fields_of_comfyui(full: Room) -> None:
    full.put(new("live", 12, created_at=9000))
    answer = await full.listed(JobQuery(limit=2))
    assert [job["id"] for job in answer["jobs"]] == ["live", "d"]
    assert answer["pagination"] == {"offset": 0, "limit": 2, "total": 5, "has_more": True}
    assert answer["jobs"][0] == {
        "id": "live",
        "status": "in_progress",
        "priority": 12,
        "create_time": 9000,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }
    assert answer["jobs"][1] == {
        "id": "d",
        "status": "completed",
        "priority": 0,
        "create_time": 1003,
        "execution_start_time": 1003,
        "execution_end_time": 1010,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (JobQuery(statuses=frozenset({"pending"})), ""),
        (JobQuery(sort_by="execution_duration", descending=False), "dcba"),
        (JobQuery(descending=False, offset=1, limit=2), "bc"),
        (JobQuery(offset=9), ""),
        (JobQuery(workflow_id="w"), ""),
    ],
)
async def test_jobs_are_chosen_and_ordered(full: Room, query: JobQuery, expected: str) -> None:
    assert "".join(job["id"] for job in (await full.listed(query))["jobs"]) == expected


async def test_the_preview_is_the_first_saved_file(room: Room) -> None:
    temp = {"filename": "t.png", "subfolder": "", "type": "temp"}
    saved = {"filename": "s.png", "subfolder": "", "type": "output"}
    await room.end("a", **{"1": {"images": [temp]}, "2": {"images": [saved], "animated": [True]}})
    summary = await room.service.job(MEMBER, "a")
    assert summary is not None
    assert summary["outputs_count"] == 2
    assert summary["preview_output"] == {**saved, "nodeId": "2", "mediaType": "images"}


async def test_a_workflow_is_found_by_its_id(room: Room) -> None:
    workflow = {"extra_pnginfo": {"workflow": {"id": "w"}}}
    room.put(new("a", extra_data=workflow))
    room.put(new("b", extra_data={"extra_pnginfo": None}))
    jobs = (await room.listed(JobQuery(workflow_id="w")))["jobs"]
    assert [job["id"] for job in jobs] == ["a"]


async def test_a_job_in_detail_has_what_was_sent_and_what_came(full: Room) -> None:
    full.put(new("live"))
    live, done = [await full.service.job(MEMBER, one) for one in ("live", "a")]
    assert live is not None
    assert live["workflow"] == {
        "prompt": {"1": {"class_type": "X"}},
        "extra_data": {"client_id": "c"},
    }
    assert done is not None
    assert {"outputs", "execution_status", "workflow"} <= set(done)
    assert await full.service.job(MEMBER, "none") is None


RUNNING = [
    job("1", submitter="x", started_at=30, order=1),
    job("2", submitter="y", started_at=10, order=2),
    job("3", submitter="x", client_id="d", started_at=20, order=3),
]


@pytest.mark.parametrize(
    ("submitter", "expected"), [("x", ["1", "3"]), ("y", ["2"]), ("z", ["2"]), ("", ["2"])]
)
def test_an_interrupt_means_the_callers_jobs_or_the_oldest(
    submitter: str, expected: list[str]
) -> None:
    assert [found.prompt_id for found in interrupted(RUNNING, [], submitter)] == expected


def test_an_interrupt_of_nothing_is_nothing() -> None:
    assert interrupted([], [], "x") == []


def test_an_interrupt_stops_nobody_elses_job_while_the_callers_own_wait() -> None:
    assert interrupted(RUNNING[:2], RUNNING[2:], "x") == RUNNING[:1]
    assert interrupted(RUNNING[1:2], RUNNING[2:], "x") == []


jobs = st.builds(
    job,
    st.uuids().map(str),
    submitter=st.sampled_from(["", "x", "y"]),
    started_at=st.integers(0, 9),
    order=st.integers(0, 9),
)


@given(st.lists(jobs), st.sampled_from(["", "x", "y", "z"]))
def test_an_interrupt_never_means_a_strangers_job_beside_others(
    running: list[Job], submitter: str
) -> None:
    meant = interrupted(running, [], submitter)
    assert bool(meant) == bool(running)
    assert len(meant) == 1 or {one.submitter for one in meant} <= {submitter}


def test_statuses_are_asked_for_in_the_words_of_the_storage() -> None:
    assert ended_states(None) == {"succeeded", "failed", "cancelled"}
    assert ended_states(frozenset({"completed", "pending"})) == {"succeeded"}


def test_what_was_not_read_counts_in_the_total() -> None:
    jobs = [{"id": "a", "status": "completed", "create_time": 1}]
    answer = select(jobs, JobQuery(limit=1), unread=4)
    assert answer["pagination"] == {"offset": 0, "limit": 1, "total": 5, "has_more": True}


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
    told = [(row.at, row.running, row.waiting, row.completed, row.failed) for row in found]
    assert told == intervals


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
            sum(one.started_at <= at < one.ended_at for one in jobs)  # type: ignore[operator]
            for at in range(row.at, row.at + 10)
        )
        assert row.running == (at_once if row.at < 90 else row.running)
        assert row.busy * 1000 <= len(jobs) * 10 + 1
    ended = [one for one in jobs if one.ended_at is not None]
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

    async def noted(since: int) -> list[JobTimes]:
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
