"""Jobs as the storage has them, and as lists show them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from proxy.jobs import listing
from proxy.jobs.models import Job, JobState, JobView, now
from proxy.jobs.protocol import LiveJob
from proxy.storage.jobs import Payload, StoredJob
from proxy.storage.usage import UsageRow
from proxy.translate import codec
from proxy.translate.helpers.rewriting import Rewriting


def columns(job: Job) -> dict[str, Any]:
    """What may change of a stored job."""
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
    """A job as it is stored."""
    return StoredJob(
        member=job.member,
        id=job.prompt_id,
        number=job.number,
        created_at=job.create_time,
        client_id=job.client_id,
        workflow_id=listing.workflow_id(job.extra_data),
        one_at_a_time=job.one_at_a_time,
        submitter=job.submitter,
        label=job.label,
        **columns(job),
    )


def payload_of(job: Job) -> Payload:
    """What the client sent, as it is stored."""
    return Payload(
        graph=codec.dump_bytes(job.graph),
        extra_data=codec.dump_bytes(job.extra_data),
        targets=None if job.targets is None else codec.dump_bytes(job.targets),
        credentials=codec.dump_bytes(job.credentials) if job.credentials else None,
        rewriting=None
        if job.rewriting is None
        else codec.dump_bytes(msgspec.to_builtins(job.rewriting)),
    )


def job_of(stored: StoredJob, payload: Payload) -> Job:
    """A stored job. Raises `ValueError` if it cannot be read."""
    return Job(
        prompt_id=stored.id,
        member=stored.member,
        number=stored.number,
        graph=codec.loads(payload.graph),
        extra_data=codec.loads(payload.extra_data),
        targets=None if payload.targets is None else codec.loads(payload.targets),
        client_id=stored.client_id,
        create_time=stored.created_at,
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
        credentials={} if payload.credentials is None else codec.loads(payload.credentials),
        rewriting=None
        if payload.rewriting is None
        else msgspec.convert(codec.loads(payload.rewriting), Rewriting),
    )


def live_of(job: Job) -> LiveJob:
    """A job of the engine as lists show it."""
    return LiveJob(
        member=job.member,
        prompt_id=job.prompt_id,
        order=job.order,
        number=job.number,
        state=job.state,
        create_time=job.create_time,
        client_id=job.client_id,
        workflow_id=listing.workflow_id(job.extra_data),
        account=job.account,
        started_at=job.started_at,
        outputs_to_execute=tuple(job.outputs_to_execute),
        accepted=job.accepted,
        watched=job.watched,
        submitter=job.submitter,
        reason=job.reason,
        message=job.message,
        label=job.label,
        changed_at=now(),
    )


def live_of_stored(stored: StoredJob) -> LiveJob:
    """A stored job as lists show it. Raises `ValueError` if it cannot be read."""
    return LiveJob(
        member=stored.member,
        prompt_id=stored.id,
        order=stored.key,
        number=stored.number,
        state=JobState(stored.state),
        create_time=stored.created_at,
        client_id=stored.client_id,
        workflow_id=stored.workflow_id,
        account=stored.account,
        started_at=stored.started_at,
        outputs_to_execute=tuple(stored.outputs_to_execute),
        accepted=stored.accepted,
        watched=stored.watched,
        submitter=stored.submitter,
        label=stored.label,
        changed_at=stored.changed_at,
    )


def view_of(job: LiveJob) -> JobView:
    """A live job as admins see it."""
    return JobView(
        member=job.member,
        prompt_id=job.prompt_id,
        number=job.number,
        state=_SHOWN.get(job.state, "sending"),
        create_time=job.create_time,
        account=job.account or None,
        started_at=job.started_at,
        reason=job.reason,
        label=job.label,
    )


_SHOWN: Mapping[JobState, Literal["waiting", "sending", "pending", "running"]] = {
    JobState.RECEIVED: "waiting",
    JobState.QUEUED: "waiting",
    JobState.SUBMITTED: "pending",
    JobState.RUNNING: "running",
}


def used(job: Job, **counts: int) -> UsageRow:
    """What a job counts as, on the day (UTC) on which it was submitted."""
    return UsageRow(day_of(job.create_time), job.member, **counts)


def day_of(at: int) -> str:
    """The day (UTC) of a time in ms since 1970."""
    return datetime.fromtimestamp(at / 1000, UTC).date().isoformat()
