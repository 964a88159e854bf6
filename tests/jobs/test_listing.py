"""Jobs as `GET /api/jobs` lists them."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.jobs import listing
from proxy.jobs.listing import JobQuery, Listed
from proxy.jobs.models import Job, JobState
from proxy.jobs.protocol import LiveJob
from proxy.jobs.rows import live_of


def job(prompt_id: str = "one", **fields: Any) -> Job:
    values: dict[str, Any] = {
        "member": "local",
        "number": 3,
        "graph": {},
        "extra_data": {},
        "targets": None,
        "client_id": None,
        "create_time": 1000,
        **fields,
    }
    return Job(prompt_id=prompt_id, **values)


def live(**fields: Any) -> LiveJob:
    return live_of(job(**fields))


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.UNKNOWN, JobState.SUBMITTED])
def test_what_does_not_run_is_pending(state: JobState) -> None:
    assert listing.of_queue(live(state=state)).job == {
        "id": "one",
        "status": "pending",
        "priority": 3,
        "create_time": 1000,
        "outputs_count": 0,
    }


def test_what_runs_says_since_when() -> None:
    shown = listing.of_queue(live(state=JobState.RUNNING, started_at=2000)).job
    assert (shown["status"], shown["execution_start_time"]) == ("in_progress", 2000)


def test_a_failed_job_has_its_error() -> None:
    error = {"exception_message": "no"}
    status = {"messages": [["execution_start", {}], ["execution_error", error]]}
    shown = listing.of_history(job(), "failed", {}, status, 2000, 2500).job
    assert shown["execution_error"] == error
    assert "preview_output" not in shown


def test_statuses_are_asked_for_in_the_words_of_the_storage() -> None:
    assert listing.ended_states(None) == {"succeeded", "failed", "cancelled"}
    assert listing.ended_states(frozenset({"completed", "pending"})) == {"succeeded"}


def test_what_was_not_read_counts_in_the_total() -> None:
    jobs = [Listed({"id": "a", "status": "completed", "create_time": 1}, None)]
    answer = listing.select(jobs, JobQuery(limit=1), unread=4)
    assert answer["pagination"] == {"offset": 0, "limit": 1, "total": 5, "has_more": True}
