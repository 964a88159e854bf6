"""Conversions between the shapes of a job: the live job, its row and what the history shows."""

from __future__ import annotations

from typing import Any

import msgspec

from proxy.jobs.models import Job, JobContent, JobEnd, JobState, LiveJob, now
from proxy.storage.jobs import Payload, StoredJob, day_of
from proxy.storage.usage import UsageRow
from proxy.translate import codec
from proxy.translate.outputs import summary
from proxy.translate.packs import Rewriting


def columns(job: Job) -> dict[str, Any]:
    """Return the fields of a stored job that may change."""
    return {
        "state": job.state.value,
        "account": job.account,
        "cloud_id": job.cloud_id or None,
        "changed_at": now(),
        "started_at": job.started_at,
        "outputs_to_execute": job.outputs_to_execute,
        "watched": job.watched,
        "accepted": job.accepted,
        "cancel_requested": job.cancel_requested,
        "charge": job.charge,
    }


def stored_of(job: Job) -> StoredJob:
    """Return a job as it is stored."""
    return StoredJob(
        member=job.member,
        id=job.prompt_id,
        number=job.number,
        created_at=job.create_time,
        client_id=job.client_id,
        workflow_id=job.workflow_id,
        one_at_a_time=job.one_at_a_time,
        submitter=job.submitter,
        label=job.label,
        **columns(job),
    )


def payload_of(job: Job) -> Payload:
    """Return what the client sent, as it is stored."""
    return Payload(
        graph=codec.dump_bytes(job.graph),
        extra_data=codec.dump_bytes(job.extra_data),
        targets=None if job.targets is None else codec.dump_bytes(job.targets),
        credentials=codec.dump_bytes(job.credentials) if job.credentials else None,
        rewriting=None
        if job.rewriting is None
        else codec.dump_bytes(msgspec.to_builtins(job.rewriting)),
    )


def content_of(payload: Payload) -> JobContent:
    """Return what the client sent. Raises `ValueError` if it cannot be read."""
    return JobContent(
        graph=codec.loads(payload.graph),
        extra_data=codec.loads(payload.extra_data),
        targets=None if payload.targets is None else codec.loads(payload.targets),
        credentials={} if payload.credentials is None else codec.loads(payload.credentials),
        rewriting=None
        if payload.rewriting is None
        else msgspec.convert(codec.loads(payload.rewriting), Rewriting),
    )


def job_of(stored: StoredJob, content: JobContent | None) -> Job:
    """Return a stored job. Raises `ValueError` if it cannot be read."""
    return Job(
        prompt_id=stored.id,
        member=stored.member,
        number=stored.number,
        content=content,
        client_id=stored.client_id,
        create_time=stored.created_at,
        workflow_id=stored.workflow_id,
        order=stored.key,
        outputs_to_execute=stored.outputs_to_execute,
        state=JobState(stored.state),
        account=stored.account,
        cloud_id=stored.cloud_id or "",
        started_at=stored.started_at,
        watched=stored.watched,
        accepted=stored.accepted,
        cancel_requested=stored.cancel_requested,
        charge=stored.charge,
        one_at_a_time=stored.one_at_a_time,
        submitter=stored.submitter,
        label=stored.label,
    )


def live_of(job: Job) -> LiveJob:
    """Return a job of the engine as lists show it."""
    live = msgspec.convert(job, LiveJob, from_attributes=True)
    return msgspec.structs.replace(live, changed_at=now())


def live_of_stored(stored: StoredJob) -> LiveJob:
    """Return a stored job as lists show it. Raises `msgspec.ValidationError` if it cannot be
    read."""
    return msgspec.convert(stored, LiveJob, from_attributes=True)


def used(job: Job, **counts: int) -> UsageRow:
    """Return the usage of a job, on the day (UTC) of its submission."""
    return UsageRow(day_of(job.create_time / 1000), job.member, **counts)


def of_history(job: Job, end: JobEnd) -> dict[str, Any]:
    """Return an ended job as a list shows it. `execution_error` is the whole event, of failed jobs
    only."""
    outputs = summary(end.outputs)
    errors = (data for type_, data in end.status["messages"] if type_ == "execution_error")
    return without_nulls(
        {
            "id": job.prompt_id,
            "status": end.outcome,
            "priority": job.number,
            "create_time": job.create_time,
            "execution_start_time": end.started_at,
            "execution_end_time": end.ended_at,
            "outputs_count": outputs.count,
            "previewable_outputs_count": outputs.previewable,
            "preview_output": outputs.preview,
            "execution_error": next(errors, None) if end.outcome == "failed" else None,
            "workflow_id": job.workflow_id,
            **end.executed_by,
        }
    )


def without_nulls(job: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a job that have a value."""
    return {key: value for key, value in job.items() if value is not None}
