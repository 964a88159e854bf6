"""A member's jobs as clients poll them and end them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobs.samples import MEMBER, Room, job, new

from proxy.jobs.models import Job, JobState
from proxy.jobs.service import JobQuery, ended_states, interrupted, select


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
    record = await room.service.job(MEMBER, "a")
    assert record is not None
    summary = record.described()
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
    live, done = [await full.service.job(MEMBER, id_) for id_ in ("live", "a")]
    assert live is not None
    assert live.whole()["workflow"] == {
        "prompt": {"1": {"class_type": "X"}},
        "extra_data": {"client_id": "c"},
    }
    assert done is not None
    assert {"outputs", "execution_status", "workflow"} <= set(done.whole())
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
    assert len(meant) == 1 or {job.submitter for job in meant} <= {submitter}


def test_statuses_are_asked_for_in_the_words_of_the_storage() -> None:
    assert ended_states(None) == {"succeeded", "failed", "cancelled"}
    assert ended_states(frozenset({"completed", "pending"})) == {"succeeded"}


def test_what_was_not_read_counts_in_the_total() -> None:
    jobs = [{"id": "a", "status": "completed", "create_time": 1}]
    answer = select(jobs, JobQuery(limit=1), unread=4)
    assert answer["pagination"] == {"offset": 0, "limit": 1, "total": 5, "has_more": True}
