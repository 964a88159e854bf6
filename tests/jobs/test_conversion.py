"""The shapes of a job, made of each other."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from jobs.samples import job, new
from msgspec.structs import replace

from proxy.costs.job_cost import Charge, JobCost
from proxy.jobs.conversion import (
    changes_of,
    content_of,
    entry_of,
    job_of,
    job_of_request,
    payload_of,
    run_of,
    sizes_of,
    stored_of,
    succeeded_nodes,
)
from proxy.jobs.models import Job, JobEnd, JobRequest, JobState
from proxy.storage.costs import CostRow
from proxy.storage.usage import UsageRow
from proxy.translate.packs import Rewriting


def test_a_failed_job_has_its_error() -> None:
    error = {"exception_message": "no"}
    status = {"messages": [["execution_start", {}], ["execution_error", error]]}
    entry, _, _ = entry_of(new("one"), JobEnd("failed", {}, status, {}, 2000, 2500))
    shown = json.loads(entry.summary)
    assert shown["execution_error"] == error
    assert "preview_output" not in shown


def test_credentials_of_partner_nodes_are_kept_apart() -> None:
    sent = {"api_key_comfy_org": "k", "auth_token_comfy_org": "t", "m": 1}
    content = job_of_request(Job, "local", JobRequest({}, extra_data=sent), prompt_id="one").loaded
    assert content.credentials == {"api_key_comfy_org": "k", "auth_token_comfy_org": "t"}
    assert content.extra_data.keys() == {"m", "create_time"}


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
    payload = payload_of(job.loaded)
    job.loaded.size, job.loaded.run_size = sizes_of(payload)
    again = job_of(Job, stored_of(job), content_of(payload))
    assert changes_of(again) == changes_of(job)
    assert (again.key, again.number) == (job.key, job.number)
    assert asdict(again.loaded) == asdict(job.loaded)


def test_an_end_counts_on_its_day_with_its_outputs() -> None:
    outputs = {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}
    end = JobEnd("completed", outputs, {"messages": []}, {}, 86_400_000, 86_401_500)
    entry, usage, costs = entry_of(new("one", cloud_id="c1"), end)
    assert (entry.state, entry.cloud_id, entry.ended_at) == ("succeeded", "c1", 86_401_500)
    assert usage == UsageRow("1970-01-02", "local", completed=1, running_seconds=1.5, outputs=1)
    assert costs == []


def test_a_cost_is_booked_on_the_day_of_the_end_with_its_sources() -> None:
    charges = (
        Charge("", "estimated", 405_000),
        Charge("Flux", "reported", 8_400_000, 1),
        Charge("Dear", "unknown", 0, 2),
    )
    end = JobEnd("completed", {}, {"messages": []}, {}, 0, 86_401_500, cost=JobCost(charges))
    job = new("one", account="main")
    entry, usage, costs = entry_of(job, end)
    assert (usage.credits_reported, usage.credits_estimated) == (8_400_000, 405_000)
    assert usage.unknown_costs == 2
    assert json.loads(entry.details)["cost"][1]["amount"] == 8_400_000
    day = ("1970-01-02", "local", "main")
    assert costs == [
        CostRow(*day, "", "estimated", 405_000, seconds=86_401.5),
        CostRow(*day, "Flux", "reported", 8_400_000, nodes=1),
        CostRow(*day, "Dear", "unknown", 0, nodes=2),
    ]


def test_without_events_all_nodes_ran_that_the_outputs_need_and_the_cache_lacks() -> None:
    graph = {
        "1": {"class_type": "Flux", "inputs": {}},
        "2": {"class_type": "Flux", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
        "4": {"class_type": "Flux", "inputs": {}},
    }
    job = new("one", account="main", graph=graph, outputs_to_execute=("3",))
    status = {"messages": [["execution_cached", {"nodes": ["1"]}], ["execution_success", {}]]}
    end = JobEnd("completed", {}, status, {}, 1000, 2500)
    assert succeeded_nodes(job, end) == {"2", "3"}
    of_a_part = replace(end, node_times={"3": (1, 1)})
    assert succeeded_nodes(job, of_a_part) == {"2", "3"}, "another engine heard of the others"
    assert succeeded_nodes(job, replace(of_a_part, followed=True)) == {"3"}
    assert succeeded_nodes(job, replace(end, outcome="cancelled")) == set()


def test_the_cost_of_a_failed_job_depends_on_the_node_that_failed() -> None:
    job = new("one", account="main")
    status = {"messages": [["execution_error", {"node_id": "2"}]]}
    times = {"1": (0, 5), "2": (5, 5)}
    end = JobEnd("failed", {}, status, {}, 1000, 2500, node_times=times, prices={"1": 7})
    run = run_of(job, end)
    assert (run.account, run.ms, run.ran(), run.reported) == ("main", 1500, {"1"}, {"1": 7})
    assert succeeded_nodes(job, replace(end, outcome="cancelled")) == {"1", "2"}


def test_a_row_has_the_label_of_its_job() -> None:
    assert stored_of(job(label="a fox")).label == "a fox"
