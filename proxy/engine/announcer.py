"""Tells and counts what becomes of jobs while the engine's term lasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from proxy.costs.credits import to_credits
from proxy.engine.live_job import LiveJob
from proxy.engine.term import Term
from proxy.jobs.conversion import stored_of
from proxy.jobs.messages import (
    JobAnswered,
    JobChanged,
    JobLeft,
    JobListener,
    JobNews,
    JobRecorded,
    JobsAhead,
)
from proxy.jobs.models import JobEnd, JobState, is_shown
from proxy.metrics import Metrics
from proxy.runtime.clock import now
from proxy.storage.history import Recorded
from proxy.storage.job_tables import JobKey
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: The states of which the sockets of the member hear, by how many jobs are left.
_TOLD = frozenset({JobState.UNKNOWN, JobState.SUBMITTED, JobState.RUNNING})


class Announcer:
    """Tells the `listener` what becomes of jobs while the `term` lasts. `ahead` counts others' jobs
    before a member's last one."""

    def __init__(self, term: Term, listener: JobListener, metrics: Metrics) -> None:
        self.term = term
        self._listener = listener
        self._metrics = metrics
        self.ahead: dict[str, int] = {}

    def publish(self, news: JobNews) -> None:
        """Tell what becomes of a job."""
        if not self.term.lasts:
            return
        try:
            self._listener.hear(news)
        except Exception:  # the job goes on all the same
            log.exception("listener_failed", news=type(news).__name__)

    # --- what becomes of jobs --------------------------------------------------------------

    def changed(self, job: LiveJob, *, tell: bool = False) -> None:
        """Tell that a job is in the queue in its state, if clients may know of it; with `tell` the
        sockets hear of it, too."""
        if is_shown(job):
            self.publish(JobChanged(stored_of(job), job.progress, tell))

    def advanced(
        self, job: LiveJob, state: JobState | None, *, was_shown: bool, answers: bool
    ) -> None:
        """Tell and count what a change has made of a job, which has taken the `state`, if any;
        with `answers` its client is told that it was accepted."""
        self.changed(job, tell=state in _TOLD or not was_shown)
        if was_shown and not is_shown(job):
            self.discarded(job)
        if answers:
            self.accepted(job)
        if self.term.lasts and state is JobState.SUBMITTED and is_shown(job):
            waited = max(0, now() - job.created_at) / 1000
            self._metrics.job_wait.labels(job.member, job.account).observe(waited)

    def accepted(self, job: LiveJob) -> None:
        """Answer the client of a job that it was accepted, and count it."""
        if self.term.lasts:
            self.answer(job.key, job.omitted)
            self._metrics.jobs_accepted.labels(job.member).inc()

    def answer(self, key: JobKey, omitted: Mapping[str, Any]) -> None:
        """Answer a client that its job was taken in, but for the nodes that the cloud has
        `omitted`."""
        self.publish(JobAnswered(key, omitted))

    def refuse(self, key: JobKey, refusal: LocalError) -> None:
        """Answer a client that its job was refused."""
        self.publish(JobAnswered(key, error=refusal))

    def discarded(self, job: LiveJob, *, more: bool = False) -> None:
        """Tell that a job has left the queue without a trace, with `more` as one of several."""
        log.info(
            "job_discarded", job=job.prompt_id, member=job.member, cloud_job=job.cloud_id or None
        )
        self.publish(JobLeft(job.key, job.order, more))
        if self.term.lasts and job.accepted:
            self._metrics.jobs_ended.labels(job.member, job.account, "withdrawn").inc()

    def recorded(self, job: LiveJob, recorded: Recorded) -> None:
        """Tell that a job is in the history."""
        self.publish(JobRecorded(job.key, recorded.forgotten))

    def ended(self, job: LiveJob, end: JobEnd) -> None:
        """Tell that a job has left the queue for the history."""
        self.publish(JobLeft(job.key, job.order))
        if not self.term.lasts:
            return
        metrics, labels = self._metrics, (job.member, job.account)
        metrics.jobs_ended.labels(*labels, end.outcome).inc()
        metrics.job_running.labels(*labels).observe(end.ms / 1000)
        for charge in end.cost.charges:
            if charge.source == "unknown":
                metrics.unknown_costs.labels(*labels, charge.node_class).inc(charge.nodes)
            else:
                used = metrics.credits_used.labels(*labels, charge.node_class, charge.source)
                used.inc(to_credits(charge.amount))

    # --- how many go before ----------------------------------------------------------------

    def announce_ahead(self, member: str, count: int, *, tell: bool) -> None:
        """Tell how many jobs of others go before the member's last one, if that has changed."""
        if count == self.ahead.get(member, 0):
            return
        if count:
            self.ahead[member] = count
        else:
            self.ahead.pop(member, None)
        self.publish(JobsAhead(member, count, tell))
