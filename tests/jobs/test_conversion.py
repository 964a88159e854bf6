"""The shapes of a job, made of each other."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from jobs.samples import new

from proxy.jobs.conversion import changes_of, content_of, entry_of, job_of, payload_of, stored_of
from proxy.jobs.models import JobEnd, JobState
from proxy.storage.usage import UsageRow
from proxy.translate.packs import Rewriting


def test_a_failed_job_has_its_error() -> None:
    error = {"exception_message": "no"}
    status = {"messages": [["execution_start", {}], ["execution_error", error]]}
    entry, _ = entry_of(new("one"), JobEnd("failed", {}, status, {}, 2000, 2500))
    shown = json.loads(entry.summary)
    assert shown["execution_error"] == error
    assert "preview_output" not in shown


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"state": JobState.RUNNING, "account": "a", "cloud_id": "c", "started_at": 5},
        {"targets": ["1"], "credentials": {"api_key_comfy_org": "k"}, "charge": 2.5},
        {"number": 2**70, "client_id": None, "watched": False, "one_at_a_time": True},
        {"rewriting": Rewriting(graph={"1": {"class_type": "Y"}}, results={})},
    ],
)
def test_a_job_comes_back_from_its_row_as_it_was(fields: dict[str, Any]) -> None:
    job = new("one", **fields)
    again = job_of(stored_of(job), content_of(payload_of(job.loaded)))
    assert changes_of(again) == changes_of(job)
    assert (again.key, again.number) == (job.key, job.number)
    assert asdict(again.loaded) == asdict(job.loaded)


def test_an_end_counts_on_its_day_with_its_outputs() -> None:
    outputs = {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}
    end = JobEnd("completed", outputs, {"messages": []}, {}, 86_400_000, 86_401_500)
    entry, usage = entry_of(new("one", cloud_id="c1"), end)
    assert (entry.state, entry.cloud_id, entry.ended_at) == ("succeeded", "c1", 86_401_500)
    assert usage == UsageRow("1970-01-02", "local", completed=1, running_seconds=1.5, outputs=1)
