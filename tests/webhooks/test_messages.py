"""The JSON of messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from proxy.jobs.models import Job, JobContent, JobEnd
from proxy.storage.budget_notices import BudgetNotice
from proxy.storage.webhooks import GATEWAY
from proxy.webhooks import messages
from proxy.webhooks.messages import (
    account_message,
    budget_message,
    ended_data,
    message,
    started_data,
)


def job(**fields: Any) -> Job:
    content = JobContent({}, {})
    return Job("p1", "anna", 0, content, "c1", 1000, label="txt2img", **fields)


def end(outcome: Any = "completed", outputs: Any = None, *events: Any) -> JobEnd:
    status = {"status_str": "success", "completed": True, "messages": list(events)}
    return JobEnd(outcome, outputs or {}, status, {}, 2000, 3000)


def test_a_message_has_the_form_of_standard_webhooks() -> None:
    made = message("job.started", "anna", started_data(job(started_at=2000)))
    body = json.loads(made.body)
    assert list(body) == ["type", "timestamp", "data"]
    assert body["type"] == made.type == "job.started"
    assert body["timestamp"].endswith("Z")
    assert body["data"] == {
        "prompt_id": "p1",
        "member": "anna",
        "client_id": "c1",
        "label": "txt2img",
        "created": 1000,
        "traceparent": None,
        "state": "running",
        "started": 2000,
    }
    assert message("job.started", "anna", {}).id != made.id


def test_the_outputs_of_a_job_are_urls_of_this_proxy() -> None:
    outputs = {
        "9": {
            "images": [
                {"filename": "a b&c.png", "subfolder": "x/ü", "type": "output"},
                {"filename": "p.png", "subfolder": "", "type": "temp"},
            ],
            "animated": [False],
            "text": ["hello"],
        }
    }
    data = ended_data(job(), end("completed", outputs))
    assert (data["state"], data["started"], data["ended"]) == ("completed", 2000, 3000)
    assert data["output_count"] == 2
    assert data["outputs"][0] == {
        "node": "9",
        "media": "images",
        "filename": "a b&c.png",
        "subfolder": "x/ü",
        "type": "output",
        "url": "/view?filename=a+b%26c.png&subfolder=x%2F%C3%BC&type=output",
    }
    assert data["error"] is None


def test_many_outputs_are_counted_and_the_first_are_named() -> None:
    files = [{"filename": f"{number}.png"} for number in range(messages.MAX_OUTPUTS + 1)]
    data = ended_data(job(), end("completed", {"1": {"images": files}}))
    assert len(data["outputs"]) == messages.MAX_OUTPUTS
    assert data["output_count"] == messages.MAX_OUTPUTS + 1


def test_the_address_of_all_outputs_is_in_the_message() -> None:
    assert ended_data(job(), end())["outputs_url"] == "/history/p1"


def test_a_message_is_small_however_long_its_texts_are() -> None:
    long = "\N{PILE OF POO}" * 3000
    files = [{"filename": f"{number}.png", "subfolder": long} for number in range(100)]
    error = dict.fromkeys(("exception_type", "exception_message", "node_id", "node_type"), long)
    ended = end("failed", {long: {"images": files}}, ["execution_error", error])
    content = JobContent({}, {})
    large = Job("p1", "anna", 0, content, long, 1000, label=long[:100])
    data = ended_data(large, ended)
    made = message("job.failed", "anna", data)
    assert len(made.body) <= messages.MAX_BYTES
    assert (data["outputs"], data["output_count"]) == ([], 100)


def test_as_many_outputs_are_named_as_fit() -> None:
    files = [{"filename": f"{number}.png", "subfolder": "x" * 2800} for number in range(100)]
    data = ended_data(job(), end("completed", {"1": {"images": files}}))
    made = message("job.completed", "anna", data)
    assert messages.MAX_BYTES * 0.8 < len(made.body) <= messages.MAX_BYTES
    assert 0 < len(data["outputs"]) < data["output_count"] == 100


def test_the_error_of_a_failed_job_is_short_and_without_secrets() -> None:
    error = {
        "exception_type": "RuntimeError",
        "exception_message": "no key comfyui-0123456789abcdef " + "x" * 5000,
        "node_id": "3",
        "node_type": "KSampler",
        "traceback": ["secret"],
    }
    data = ended_data(job(), end("failed", {}, ("execution_error", error)))
    assert {key: data["error"][key] for key in ("type", "node", "class")} == {
        "type": "RuntimeError",
        "node": "3",
        "class": "KSampler",
    }
    assert 900 < len(data["error"]["message"]) <= messages.MAX_TEXT
    assert "comfyui-" not in json.dumps(data)
    assert "traceback" not in json.dumps(data)


def test_a_lone_surrogate_in_a_name_breaks_nothing() -> None:
    outputs = {"1": {"images": [{"filename": "\ud800.png"}]}}
    made = message("job.completed", "anna", ended_data(job(), end("completed", outputs)))
    made.body.decode()


def test_a_message_about_an_account_is_the_gateways() -> None:
    made = account_message("account.unavailable", "main", "no_credits")
    assert made.member == GATEWAY
    assert json.loads(made.body)["data"] == {"account": "main", "reason": "no_credits"}


def test_a_budget_that_is_reached_has_its_amounts_in_credits() -> None:
    notice = BudgetNotice(
        "anna",
        "soft_credits_per_month",
        800_500_000,
        "reached",
        "2026-11-01",
        801_000_000,
        refused=False,
        at=1_795_867_200_000,  # 2026-11-28 12:00 UTC
    )
    made = budget_message(notice)
    assert (made.type, made.member) == ("budget.reached", "anna")
    assert json.loads(made.body)["data"] == {
        "member": "anna",
        "budget": "soft_credits_per_month",
        "period": "month",
        "hard": False,
        "limit": 800.5,
        "spent": 801.0,
        "refused": False,
        "renews": 1_796_083_200_000,  # 2026-12-01
    }


def test_the_page_and_the_documents_have_all_types() -> None:
    project = Path(__file__).parents[2]
    page = (project / "proxy" / "admin" / "page" / "webhooks.js").read_text(encoding="utf-8")
    shown = re.findall(r'\["([a-z]+\.[a-z]+)", "[^"]+", (?:true|false), (true|false)\]', page)
    assert {name for name, _ in shown} == set(messages.TYPES)
    apart = {name for name, apart in shown if apart == "true"}
    assert apart == set(messages.GATEWAY_TYPES)
    document = (project / "docs" / "webhooks.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"(?m)^\| `([a-z]+\.[a-z]+)` \|", document))
    assert rows == {*messages.TYPES, messages.TEST}


def test_a_message_is_small_whatever_the_client_chose() -> None:
    long = "x" * 1_000_000
    outputs = {long: {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}}
    named = Job("p1", "anna", 0, JobContent({}, {}), long, 1000)
    made = message("job.completed", "anna", ended_data(named, end("completed", outputs)))
    assert len(made.body) < 3 * messages.MAX_TEXT
