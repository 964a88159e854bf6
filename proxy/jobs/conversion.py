"""Conversions between the shapes of a job.

`JobRequest` is what a client asked, `Job` a live job, `StoredJob` its row, and `HistoryEntry` what
is left of it. What the client sent is apart: `JobContent` in memory, `Payload` in the storage.
"""

from __future__ import annotations

from functools import cache, partial
from operator import attrgetter
from typing import Any

import msgspec

from proxy.costs.job_cost import JobRun
from proxy.jobs.models import ENDS, AnyJob, Job, JobContent, JobEnd, JobRequest, JobState, Wish
from proxy.runtime.clock import now
from proxy.storage.costs import CostRow
from proxy.storage.job_tables import HistoryEntry, StoredJob
from proxy.storage.payloads import Payload
from proxy.storage.usage import UsageRow, day_of
from proxy.translate import codec
from proxy.translate.codec import CREDENTIAL_KEYS
from proxy.translate.jobs import reachable
from proxy.translate.labels import label_of
from proxy.translate.outputs import summary
from proxy.translate.packs import Rewriting
from proxy.translate.validation import Validation
from proxy.translate.workflow_metadata import workflow_id_of


def job_of_request(
    kind: type[AnyJob],
    member: str,
    request: JobRequest,
    found: Validation | None = None,
    *,
    prompt_id: str,
) -> AnyJob:
    """Return a job for a request that has just arrived, without what was `found` to be wrong; the
    storage numbers it, unless the client has."""
    created = now()
    content = JobContent(graph=request.graph, extra_data={}, targets=request.targets)
    if found is not None and found.converted:
        content.graph = found.kept(request.graph)
    if found is not None and found.node_errors:
        # The cloud may take a graph that is partly wrong for one that is refused.
        content.targets = found.outputs
    for key, value in request.extra_data.items():
        part = content.credentials if key in CREDENTIAL_KEYS else content.extra_data
        part[key] = value
    content.extra_data["create_time"] = created
    return kind(
        prompt_id=prompt_id,
        member=member,
        number=0 if request.number is None else request.number,
        content=content,
        client_id=request.client_id,
        created_at=created,
        workflow_id=workflow_id_of(content.extra_data),
        outputs_to_execute=() if found is None else tuple(found.outputs),
        submitter=request.submitter,
        token=request.token,
        trace=request.trace,
        label=label_of(request.graph, request.extra_data),
    )


def stored_of(job: Job) -> StoredJob:
    """Return the row of a job as it is now."""
    return StoredJob(*_values_of(job))


_COLUMNS = StoredJob.__struct_fields__
_values_of = attrgetter(*_COLUMNS)
_WISHES = frozenset({"cancel_requested", "interrupted"})

#: The columns that the engine writes again; the others never change.
_MAY_CHANGE = (
    *("state", "account", "cloud_id", "started_at", "outputs_to_execute", "estimate"),
    *("watched", "accepted", "cancel_requested", "interrupted", "charge"),
)


def changes_of(job: Job) -> tuple[int, dict[str, Any]]:
    """Return the order of a job, and the fields of its row that may have changed."""
    return job.order, {name: getattr(job, name) for name in _MAY_CHANGE}


def payload_of(content: JobContent) -> Payload:
    """Return what the client sent, as it is stored."""
    targets, credentials, rewriting = content.targets, content.credentials, content.rewriting
    return Payload(
        graph=codec.dump_bytes(content.graph),
        extra_data=codec.dump_bytes(content.extra_data),
        targets=None if targets is None else codec.dump_bytes(targets),
        credentials=codec.dump_bytes(credentials) if credentials else None,
        rewriting=None if rewriting is None else codec.dump_bytes(msgspec.to_builtins(rewriting)),
    )


def sizes_of(payload: Payload) -> tuple[int, int]:
    """Return about how many bytes of memory a content takes until the cloud has it, with the JSON
    that is sent, and what a run needs of it.

    The credentials are remembered while the job runs, so that no message shows them.
    """
    kept = payload.graph, payload.rewriting, payload.credentials
    sent = payload.extra_data, payload.targets
    run_size = sum(codec.parsed_size(part) for part in kept if part)
    more = sum(codec.parsed_size(part) for part in sent if part)
    return run_size + more + sum(len(part) for part in (*kept, *sent) if part), run_size


def content_of(payload: Payload) -> JobContent:
    """Return what the client sent. Raises `ValueError` if it cannot be read."""
    size, run_size = sizes_of(payload)
    return JobContent(
        graph=codec.loads(payload.graph),
        extra_data=codec.loads(payload.extra_data),
        targets=None if payload.targets is None else codec.loads(payload.targets),
        credentials={} if payload.credentials is None else codec.loads(payload.credentials),
        rewriting=None
        if payload.rewriting is None
        else msgspec.convert(codec.loads(payload.rewriting), Rewriting),
        size=size,
        run_size=run_size,
    )


def job_of(kind: type[AnyJob], stored: StoredJob, content: JobContent | None) -> AnyJob:
    """Return the job of a row. Raises `ValueError` if its state is unknown."""
    fields = {name: getattr(stored, name) for name in _COLUMNS if name not in _WISHES}
    wish = Wish.of(cancel_requested=stored.cancel_requested, interrupted=stored.interrupted)
    return kind(content=content, wish=wish, **{**fields, "state": JobState(stored.state)})


def used(job: Job, **counts: int) -> UsageRow:
    """Return the usage of a job, on the day (UTC) of its submission."""
    return UsageRow(day_of(job.created_at / 1000), job.member, **counts, token=job.token)


#: What a history entry has from its job.
_KEPT = (
    *("order", "member", "prompt_id", "number", "created_at", "outputs_to_execute"),
    *("label", "workflow_id", "client_id", "cloud_id"),
)


def entry_of(job: Job, end: JobEnd) -> tuple[HistoryEntry, UsageRow, list[CostRow]]:
    """Return the history entry of a job that has ended, its usage and what it has cost, both on the
    day of its end."""
    outputs = summary(end.outputs)
    listed = {
        "id": job.prompt_id,
        "status": end.outcome,
        "priority": job.number,
        "create_time": job.created_at,
        "execution_start_time": end.started_at,
        "execution_end_time": end.ended_at,
        "outputs_count": outputs.count,
        "previewable_outputs_count": outputs.previewable,
        "preview_output": outputs.preview,
        "execution_error": end.error,
        "workflow_id": job.workflow_id,
        **end.executed_by,
    }
    result = {"outputs": end.outputs, "status": end.status, "meta": end.meta}
    cost = msgspec.to_builtins(end.cost.charges)
    details = {"account": job.account, "cost": cost}
    entry = HistoryEntry(
        **{name: getattr(job, name) for name in _KEPT},
        state=ENDS[end.outcome].value,
        started_at=end.started_at,
        ended_at=end.ended_at,
        summary=codec.dump_bytes(without_nulls(listed)),
        result=codec.dump_bytes(result),
        details=codec.dump_bytes(details),
        node_times=codec.dump_bytes(end.node_times),
    )
    usage, costs = _usage_of(job, end, outputs.count)
    return entry, usage, costs


def _usage_of(job: Job, end: JobEnd, outputs: int) -> tuple[UsageRow, list[CostRow]]:
    day, seconds = day_of(end.ended_at / 1000), end.ms / 1000
    usage = UsageRow(day, job.member, running_seconds=seconds, outputs=outputs, token=job.token)
    setattr(usage, end.outcome, 1)
    costs = []
    for charge in end.cost.charges:
        match charge.source:
            case "reported":
                usage.credits_reported += charge.amount
            case "estimated":
                usage.credits_estimated += charge.amount
            case "unknown":
                usage.unknown_costs += charge.nodes
        about = charge.node_class, charge.source, charge.amount, charge.nodes
        ran = 0.0 if charge.node_class else seconds
        costs.append(CostRow(day, job.member, job.account, *about, ran, job.token))
    return usage, costs


def run_of(job: Job, end: JobEnd) -> JobRun:
    """Return what the cost of a job that has ended depends on."""
    return JobRun(
        job.graph, job.account, end.ms, cache(partial(succeeded_nodes, job, end)), end.prices
    )


def succeeded_nodes(job: Job, end: JobEnd) -> set[str]:
    """Return the nodes of a job that are known to have succeeded.

    Of a job that has succeeded and was not followed from its first node to its end, these are also
    the ones that its outputs need.
    """
    found = set(end.node_times)
    if end.outcome == "completed" and not end.followed:
        needed = reachable(job.graph, job.outputs_to_execute or None)
        for type_, data in end.status["messages"]:
            if type_ == "execution_cached":
                needed.difference_update(data["nodes"])
        found |= needed
    elif end.error is not None:
        found -= {str(end.error.get("node_id"))}
    return found


def without_nulls(job: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a job that have a value."""
    return {key: value for key, value in job.items() if value is not None}
