"""A job has one state, and goes only where the table allows it."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from proxy.jobs.models import MEANING, TRANSITIONS, Job, JobState, TransitionError, states_table

DOCS = Path(__file__).parents[2] / "docs" / "how-it-works.md"


def job(**fields: Any) -> Job:
    values: dict[str, Any] = {
        "prompt_id": "one",
        "member": "local",
        "number": 0,
        "graph": {},
        "extra_data": {},
        "targets": None,
        "client_id": None,
        "create_time": 0,
        **fields,
    }
    return Job(**values)


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)))
def test_only_what_the_table_has_is_allowed(before: JobState, after: JobState) -> None:
    one = job(state=before)
    if after in TRANSITIONS[before]:
        one.to(after)
        assert one.state is after
    else:
        with pytest.raises(TransitionError, match="cannot become"):
            one.to(after)
        assert one.state is before


def test_every_state_has_a_meaning_and_a_way_to_an_end() -> None:
    assert set(MEANING) == set(TRANSITIONS) == set(JobState)
    for state in JobState:
        reached, todo = {state}, [state]
        while todo:
            for after in TRANSITIONS[todo.pop()] - reached:
                reached.add(after)
                todo.append(after)
        assert any(one.ended for one in reached)


def test_what_has_ended_goes_nowhere() -> None:
    assert {state for state in JobState if state.ended} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }


def test_the_documents_have_the_table() -> None:
    assert "\n".join(states_table()) in DOCS.read_text(encoding="utf-8")


def test_credentials_are_not_shown() -> None:
    assert "secret" not in repr(job(credentials={"api_key_comfy_org": "secret"}))
