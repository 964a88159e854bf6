"""What the engine knows of its jobs and accounts beyond the storage, for those who ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b

from msgspec import to_builtins

from proxy.engine.forecast import Forecast
from proxy.engine.live_job import LiveJob
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.worker import AccountWorker
from proxy.jobs.engine_calls import JobSeen, OverviewAnswered, RunAnswered, RunFound
from proxy.jobs.models import AccountView, Job, JobState, is_shown, shown_state
from proxy.runtime import clock
from proxy.runtime.clock import now
from proxy.storage.job_tables import JobKey

#: Nodes of a run that are told of, and waiting jobs that are described: each takes some µs.
MAX_NODES, MAX_WAITING = 1000, 500

#: The order in which admins see jobs that are not in the queue any more.
_RANK = {"running": 0, "pending": 1, "sending": 2}


class Overview:
    """Answers about all live jobs and accounts."""

    def __init__(
        self,
        table: JobTable,
        scheduler: Scheduler,
        forecast: Forecast,
        workers: Mapping[str, AccountWorker],
    ) -> None:
        self._table = table
        self._scheduler = scheduler
        self._forecast = forecast
        self._workers = workers

    def jobs(self, member: str | None) -> OverviewAnswered:
        """Return the live jobs of all or of one member, of those that wait the first, and the
        accounts."""
        views = [
            self._seen(job)
            for job in self._table
            if job.state not in (JobState.RECEIVED, JobState.QUEUED)
            and is_shown(job)
            and member in (None, job.member)
        ]
        views.sort(key=lambda view: _sent_position(view.job))
        positions = [
            position
            for position in self._forecast.positions()
            if member in (None, position.job.member)
        ]
        views += [
            JobSeen(position.job, position.reason, position.before)
            for position in positions[:MAX_WAITING]
        ]
        waiting = Counter(position.job.member for position in positions)
        held = sum(self._scheduler.is_held(position.job) for position in positions)
        return OverviewAnswered(tuple(views), self.accounts(), dict(waiting), held)

    def run(self, key: JobKey, *, with_preview: bool) -> RunAnswered:
        """Return how far a job is, with its nodes and its last preview."""
        job = self._table.get(key)
        if job is None or job.follower is None or job.state is not JobState.RUNNING:
            return RunAnswered(None)
        seen = self._seen(job)
        found: RunFound = {
            "progress": seen.share,
            "remaining": seen.remaining,
            "node": seen.node,
            "nodes": to_builtins(job.follower.reports(MAX_NODES)),
        }
        preview = job.preview
        if preview is None:
            return RunAnswered(found)
        number = blake2b(preview.image, digest_size=8).hexdigest()
        image = preview.image if with_preview else b""
        return RunAnswered(found, number, image, preview.image_type)

    def accounts(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
        return tuple(map(self._account_view, self._workers.values()))

    def running_node(self, member: str, client_id: str) -> str | None:
        """Return the node of a client that runs, if one does."""
        for job in reversed(self._table.followed(member)):
            node = None if job.follower is None else job.follower.node
            if job.client_id == client_id and node is not None:
                return node
        return None

    def _seen(self, job: LiveJob) -> JobSeen:
        """Return a live job as admins see it, with the node that runs."""
        follower = job.follower
        if follower is None or job.state is not JobState.RUNNING:
            return JobSeen(job, job.reason)
        far = follower.progress
        return JobSeen(
            job,
            job.reason,
            share=far.share,
            remaining=None if far.remaining is None else round(far.remaining),
            node=follower.node,
            node_type=follower.node_type,
        )

    def _account_view(self, worker: AccountWorker) -> AccountView:
        account = worker.account
        rest = account.health.until - clock.monotonic()
        return AccountView(
            account.name,
            account.slots.count,
            self._scheduler.used(account.name),
            account.health.reason,
            now() + int(rest * 1000) if not account.health.well and rest > 0 else None,
            worker.feed.connected,
            worker.feed.refused,
            account.plan,
            account.health.known,
            account.kind,
        )


def _sent_position(job: Job) -> tuple[int, int]:
    """Return the position of a job that is not in the queue any more."""
    return _RANK[shown_state(job)], job.started_at or job.created_at
