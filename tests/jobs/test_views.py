"""How live jobs are divided and shown."""

from __future__ import annotations

from typing import Any

import pytest
from jobs.samples import new

from proxy.jobs.conversion import stored_of
from proxy.jobs.models import JobState
from proxy.jobs.views import divided, of_queue
from proxy.storage.job_tables import StoredJob


def live(**fields: Any) -> StoredJob:
    return stored_of(new("one", 3, extra_data={}, **fields))


@pytest.mark.parametrize(
    ("states", "running", "pending"),
    [
        ("", "", ""),
        ("queued queued", "0", "1"),
        ("queued submitted unknown", "1", "02"),
        ("queued submitted running running", "23", "01"),
    ],
)
def test_the_head_of_the_queue_counts_as_running_where_nothing_runs(
    states: str, running: str, pending: str
) -> None:
    jobs = [
        stored_of(new(str(number), number, state=JobState(state)))
        for number, state in enumerate(states.split())
    ]
    shown = ["".join(job.prompt_id for job in part) for part in divided(reversed(jobs))]
    assert [sorted(shown[0]), shown[1]] == [sorted(running), pending]


@pytest.mark.parametrize("running", [True, False])
def test_a_job_without_outputs_has_counts_of_zero(running: bool) -> None:
    assert of_queue(live(), running=running) == {
        "id": "one",
        "status": "in_progress" if running else "pending",
        "priority": 3,
        "create_time": 1000,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }


def test_what_runs_says_since_when() -> None:
    shown = of_queue(live(state=JobState.RUNNING, started_at=2000), running=True)
    assert (shown["status"], shown["execution_start_time"]) == ("in_progress", 2000)
