"""A member's queue and history, as clients poll them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.jobs import listing
from proxy.jobs.ledger import Ledger
from proxy.jobs.listing import JobQuery
from proxy.jobs.record import EndedJob, JobRecord
from proxy.translate import codec


def record(prompt_id: str, number: float = 0, **fields: Any) -> JobRecord:
    values: dict[str, Any] = {
        "member": "local",
        "graph": {"1": {"class_type": "X"}},
        "extra_data": {"client_id": "c"},
        "targets": None,
        "client_id": "c",
        "create_time": 1000,
        "outputs_to_execute": ["1"],
        **fields,
    }
    return JobRecord(prompt_id=prompt_id, number=number, **values)


def ended(prompt_id: str, created: int = 1000, took: int = 5, **outputs: Any) -> EndedJob:
    job = record(prompt_id, create_time=created)
    status = {"status_str": "success", "completed": True, "messages": []}
    listed = listing.of_history(job, "completed", outputs, status, created, created + took)
    entry = {"prompt": job.queue_item(), "outputs": outputs, "status": status, "meta": {}}
    return EndedJob(
        prompt_id,
        "local",
        "cloud-" + prompt_id,
        created,
        "completed",
        listed.job,
        None,
        codec.dump_bytes(entry),
    )


@pytest.fixture
def full() -> Ledger:
    ledger = Ledger()
    for number, prompt_id in enumerate("abcd"):
        ledger.add_ended(ended(prompt_id, 1000 + number, took=10 - number))
    return ledger


@pytest.mark.parametrize(
    ("max_items", "offset", "expected"),
    [
        (None, None, "abcd"),
        (2, None, "cd"),
        (1, None, "d"),
        (0, None, ""),
        (10, None, "abcd"),
        (-1, None, ""),
        (2, 0, "ab"),
        (2, 1, "bc"),
        (0, 0, "a"),
        (None, 2, "cd"),
        (None, 9, ""),
        (None, -1, "abcd"),
        (1, -2, "d"),
    ],
)
def test_history_is_cut_as_comfyui_cuts_it(
    full: Ledger, max_items: int | None, offset: int | None, expected: str
) -> None:
    assert "".join(json.loads(full.history_json(max_items, offset))) == expected


def test_the_queue_is_shown_in_comfyuis_tuples() -> None:
    ledger = Ledger()
    ledger.add(record("late", 7))
    ledger.add(record("first", -1))
    ledger.add(record("running", 3))
    ledger.started("running", 1)
    shown = json.loads(ledger.queue_json())
    item = [3, "running", {"1": {"class_type": "X"}}, {"client_id": "c"}, ["1"]]
    assert shown["queue_running"] == [item]
    assert [entry[1] for entry in shown["queue_pending"]] == ["first", "late"]


def test_the_queue_is_written_once_until_it_changes() -> None:
    ledger = Ledger()
    ledger.add(record("a"))
    assert ledger.queue_json() is ledger.queue_json()
    before = ledger.queue_json()
    ledger.remove("a")
    assert ledger.queue_json() != before


def test_an_unknown_or_running_job_has_no_history() -> None:
    ledger = Ledger()
    ledger.add(record("a"))
    assert ledger.history_entry_json("a") == ledger.history_entry_json("b") == b"{}"


def test_between_its_end_and_leaving_the_queue_a_job_is_in_both() -> None:
    ledger = Ledger()
    ledger.add(record("a"))
    ledger.add_ended(ended("a"))
    assert b'"a"' in ledger.queue_json()
    assert b'"a"' in ledger.history_json(None, None)
    jobs = ledger.list_jobs(JobQuery())["jobs"]
    assert [job["status"] for job in jobs] == ["completed"]


def test_an_id_used_again_keeps_its_place(full: Ledger) -> None:
    full.add_ended(ended("b", 9000))
    assert "".join(json.loads(full.history_json(None, None))) == "abcd"


def test_jobs_are_listed_newest_first_with_the_fields_of_comfyui(full: Ledger) -> None:
    full.add(record("live", 12, create_time=9000))
    answer = full.list_jobs(JobQuery(limit=2))
    assert [job["id"] for job in answer["jobs"]] == ["live", "d"]
    assert answer["pagination"] == {"offset": 0, "limit": 2, "total": 5, "has_more": True}
    assert answer["jobs"][0] == {
        "id": "live",
        "status": "pending",
        "priority": 12,
        "create_time": 9000,
        "outputs_count": 0,
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
def test_jobs_are_chosen_and_ordered(full: Ledger, query: JobQuery, expected: str) -> None:
    assert "".join(job["id"] for job in full.list_jobs(query)["jobs"]) == expected


def test_the_preview_is_the_first_saved_file() -> None:
    temp = {"filename": "t.png", "subfolder": "", "type": "temp"}
    saved = {"filename": "s.png", "subfolder": "", "type": "output"}
    job = ended("a", **{"1": {"images": [temp]}, "2": {"images": [saved], "animated": [True]}})
    assert job.summary["outputs_count"] == 2
    assert job.summary["preview_output"] == {**saved, "nodeId": "2", "mediaType": "images"}


def test_a_workflow_is_found_by_its_id() -> None:
    ledger = Ledger()
    workflow = {"extra_pnginfo": {"workflow": {"id": "w"}}}
    ledger.add(record("a", extra_data=workflow))
    ledger.add(record("b", extra_data={"extra_pnginfo": None}))
    jobs = ledger.list_jobs(JobQuery(workflow_id="w"))["jobs"]
    assert [job["id"] for job in jobs] == ["a"]


def test_a_job_in_detail_has_what_was_sent_and_what_came(full: Ledger) -> None:
    full.add(record("live"))
    live, done = full.job("live"), full.job("a")
    assert live is not None
    assert live["workflow"] == {
        "prompt": {"1": {"class_type": "X"}},
        "extra_data": {"client_id": "c"},
    }
    assert done is not None
    assert {"outputs", "execution_status", "workflow"} <= set(done)
    assert full.job("none") is None


def test_records_survive_their_bytes() -> None:
    job = record("a", 2**70, graph={"1": {"inputs": {"seed": 2**64 - 1}}})
    assert JobRecord.from_bytes(job.to_bytes()) == job
    assert EndedJob.from_bytes(ended("a").to_bytes()) == ended("a")
