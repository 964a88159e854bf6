"""The shapes of a job, made of each other."""

from __future__ import annotations

from typing import Any

import pytest
from jobs.samples import new

from proxy.jobs.conversion import columns, content_of, job_of, of_history, payload_of, stored_of
from proxy.jobs.models import JobEnd, JobState
from proxy.translate.packs import Rewriting


def test_a_failed_job_has_its_error() -> None:
    error = {"exception_message": "no"}
    status = {"messages": [["execution_start", {}], ["execution_error", error]]}
    shown = of_history(new("one"), JobEnd("failed", {}, status, {}, 2000, 2500))
    assert shown["execution_error"] == error
    assert "preview_output" not in shown


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"state": JobState.RUNNING, "account": "a", "cloud_id": "c", "started_at": 5},
        {"targets": ["1"], "credentials": {"api_key_comfy_org": "k"}, "charge": 2.5},
        {"number": 2**70, "client_id": None, "watched": False, "one_at_a_time": True},
        {"rewriting": Rewriting(graph={"1": {"class_type": "Y"}}, tells={})},
    ],
)
def test_a_job_comes_back_from_its_row_as_it_was(fields: dict[str, Any]) -> None:
    job = new("one", **fields)
    again = job_of(stored_of(job), content_of(payload_of(job)))
    assert columns(again) | {"changed_at": 0} == columns(job) | {"changed_at": 0}
    assert (again.key, again.number, again.graph) == (job.key, job.number, job.graph)
    assert (again.targets, again.credentials) == (job.targets, job.credentials)
    assert again.rewriting == job.rewriting
