"""The messages that webhooks get: their types, and the JSON of each.

A body is `{"type", "timestamp", "data"}`, as Standard Webhooks has it. It has neither secrets nor
signed URLs: files are named by the `/view` URL of this proxy, without its host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote, urlencode

from proxy.costs.budgets import Period, renewal
from proxy.costs.credits import to_credits
from proxy.jobs.models import Job, JobEnd
from proxy.logging import scrub_start
from proxy.runtime import randomness
from proxy.runtime.clock import now
from proxy.storage.budget_notices import BudgetNotice
from proxy.storage.webhooks import GATEWAY, WebhookMessage
from proxy.translate import codec, output_files
from proxy.translate.times import rfc3339

MessageType = Literal[
    "job.started",
    "job.completed",
    "job.failed",
    "job.cancelled",
    "budget.near",
    "budget.reached",
    "account.unavailable",
    "account.recovered",
]

#: The types of messages, and when each is sent. Those of members are about their own jobs.
JOB_TYPES: Mapping[MessageType, str] = {
    "job.started": "A job began to run.",
    "job.completed": "A job ended with its outputs.",
    "job.failed": "A job ended with an error.",
    "job.cancelled": "A job that was accepted was interrupted.",
}
MEMBER_TYPES: Mapping[MessageType, str] = {
    **JOB_TYPES,
    "budget.near": "The jobs that ended have cost 80 % of a hard or soft budget.",
    "budget.reached": "The whole of a budget is spent, or it has refused a job.",
}
GATEWAY_TYPES: Mapping[MessageType, str] = {
    "account.unavailable": "An account takes no jobs: its key, its credits or the cloud.",
    "account.recovered": "The account takes jobs again.",
}
TYPES: Mapping[MessageType, str] = {**MEMBER_TYPES, **GATEWAY_TYPES}
STARTED: MessageType = "job.started"
#: Sent by the test of an endpoint, which cannot choose it.
TEST = "webhook.test"

#: Bytes of a message, files that it names, and characters of a text that a client or the cloud
#: chose.
MAX_BYTES, MAX_OUTPUTS, MAX_TEXT = 64 * 1024, 100, 1000
#: Bytes of a message beside its data, and between two outputs.
_FRAME, _SEPARATOR = 200, 2


def message(type_: str, member: str, data: Mapping[str, Any]) -> WebhookMessage:
    """Return a new message about a member, or about the gateway (`GATEWAY`)."""
    created = now()
    body = {"type": type_, "timestamp": rfc3339(created * 1000, "milliseconds"), "data": data}
    id_ = f"msg_{randomness.uuid4().hex}"
    return WebhookMessage(id_, type_, member, codec.dump_bytes(body), created)


def make_test_message(member: str, webhook: str) -> WebhookMessage:
    """Return the message that tests an endpoint."""
    return message(TEST, member, {"webhook": webhook})


def started_data(job: Job) -> dict[str, Any]:
    """Return the `data` of a message about a job that runs now."""
    return {**_job(job), "state": "running", "started": job.started_at}


def ended_data(job: Job, end: JobEnd) -> dict[str, Any]:
    """Return the `data` of a message about a job that has ended, with as many outputs as fit."""
    data: dict[str, Any] = {
        **_job(job),
        "state": end.outcome,
        "started": end.started_at,
        "ended": end.ended_at,
        "outputs": [],
        "output_count": 0,
        "outputs_url": f"/history/{quote(job.prompt_id, safe='')}",
        "error": _error(end),
    }
    room = MAX_BYTES - _FRAME - len(codec.dump_bytes(data))
    for output in _outputs(end.outputs):
        data["output_count"] += 1
        if data["output_count"] <= MAX_OUTPUTS and room > 0:
            room -= len(codec.dump_bytes(output)) + _SEPARATOR
            if room > 0:
                data["outputs"].append(output)
    return data


def budget_message(notice: BudgetNotice) -> WebhookMessage:
    """Return the message about a budget that is near or reached, with amounts in credits."""
    period: Period = "day" if notice.budget.endswith("day") else "month"
    data = {
        "member": notice.member,
        "budget": notice.budget,
        "period": period,
        "hard": not notice.budget.startswith("soft"),
        "limit": to_credits(notice.amount),
        "spent": to_credits(notice.spent),
        "refused": notice.refused,
        "renews": int(renewal(period, notice.at / 1000).timestamp() * 1000),
    }
    return message(f"budget.{notice.stage}", notice.member, data)


def account_message(type_: str, account: str, reason: str) -> WebhookMessage:
    """Return a message about an account; `reason` says why it takes no jobs, or took none."""
    return message(type_, GATEWAY, {"account": account, "reason": reason})


def _job(job: Job) -> dict[str, Any]:
    return {
        "prompt_id": job.prompt_id,
        "member": job.member,
        "client_id": None if job.client_id is None else job.client_id[:MAX_TEXT],
        "label": job.label,
        "created": job.created_at,
        "traceparent": job.trace or None,
    }


def _outputs(outputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the files of a job's outputs."""
    for node, (media, _, _, item) in output_files.files_of(outputs):
        file = {key: str(item.get(key) or "") for key in ("filename", "subfolder", "type")}
        url = f"/view?{urlencode(file, errors='replace')}"
        yield {"node": node[:MAX_TEXT], "media": media, **file, "url": url}


def _error(end: JobEnd) -> dict[str, Any] | None:
    """Return the error of a failed job."""
    if end.outcome != "failed":
        return None
    error = end.error or {}
    return {
        "type": _short(error.get("exception_type")),
        "message": _short(error.get("exception_message")),
        "node": _short(error.get("node_id")),
        "class": _short(error.get("node_type")),
    }


def _short(value: object) -> str:
    return scrub_start("" if value is None else str(value), MAX_TEXT)
