"""The states of a job, and what is shown of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jobs.samples import job

from proxy.jobs.conversion import stored_of
from proxy.jobs.models import TRANSITIONS, JobState, shown_state

DOCS = Path(__file__).parents[2] / "docs" / "how-it-works.md"


def test_every_state_has_a_way_to_an_end() -> None:
    assert set(TRANSITIONS) == set(JobState)
    for state in JobState:
        reached, todo = {state}, [state]
        while todo:
            for after in TRANSITIONS[todo.pop()] - reached:
                reached.add(after)
                todo.append(after)
        assert any(other.ended for other in reached)


def test_what_has_ended_goes_nowhere() -> None:
    assert {state for state in JobState if state.ended} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_the_documents_have_the_table() -> None:
    row = re.compile(r"^\| `(\w+)` \| (?:\w.+) \| (.+) \|$", re.MULTILINE)
    table = dict(row.findall(DOCS.read_text(encoding="utf-8")))
    assert list(table) == list(JobState)
    for state, following in table.items():
        expected = [f"`{other}`" for other in JobState if other in TRANSITIONS[JobState(state)]]
        assert following == (", ".join(expected) or "nothing")


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(job(credentials={"api_key_comfy_org": "secret"}))


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (JobState.QUEUED, "waiting"),
        (JobState.SUBMITTING, "sending"),
        (JobState.UNKNOWN, "sending"),
        (JobState.SUBMITTED, "pending"),
        (JobState.RUNNING, "running"),
    ],
)
def test_admins_see_how_far_a_job_is(state: JobState, shown: str) -> None:
    assert shown_state(stored_of(job(state=state))) == shown
