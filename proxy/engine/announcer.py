"""What the engine tells on the bus of its jobs."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from proxy.bus import BusMessage
from proxy.jobs.models import (
    AccountView,
    Job,
    JobChanged,
    JobLeft,
    JobsAhead,
    JobState,
    LiveJob,
    NodeRuns,
    Outcome,
    OverviewAnswered,
    live_of,
    now,
    topic_of,
)

if TYPE_CHECKING:
    from proxy.engine.engine import Engine
    from proxy.engine.worker import AccountWorker


#: Seconds in which changes for others' queues are gathered before they are told.
_TELLING = 0.05


class Announcer:
    """Tells of an engine's jobs, as long as its term lasts.

    What becomes of a job is counted here, once for all replicas.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bus = engine.bus
        self._term = engine.recorder.term
        self._scheduler = engine.scheduler
        self._metrics = engine.metrics
        self._ahead: dict[str, int] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._telling_all: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Tell nothing more."""
        for timer in (self._telling, self._telling_all):
            if timer is not None:
                timer.cancel()

    # --- telling ---------------------------------------------------------------------------

    def publish(self, member: str, news: BusMessage) -> None:
        """Tell what becomes of a member's jobs, while this engine runs them."""
        if self._term.lasts:
            self._bus.publish(f"jobs.{member}", news)

    def changed(self, job: Job) -> None:
        """A job is in the queue in its state."""
        self.publish(job.member, JobChanged(live_of(job)))

    def accepted(self, job: Job) -> None:
        """The client learns that its job is in the queue."""
        if self._term.lasts:
            self._metrics.accepted(job)

    def dispatched(self, job: Job) -> None:
        """The cloud has taken a job."""
        if self._term.lasts:
            self._metrics.dispatched(job, max(0, now() - job.create_time) / 1000)

    def discarded(self, job: Job, *, more: bool = False) -> None:
        """A job has left the queue without a trace, with `more` as one of several."""
        self.publish(job.member, JobLeft(live_of(job), more))
        if self._term.lasts and job.accepted:
            self._metrics.discarded(job)

    def ended(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """A job has left the queue for the history; it has run for so long."""
        self.publish(job.member, JobLeft(live_of(job)))
        if self._term.lasts:
            self._metrics.ended(job, outcome, seconds)

    def tell_status(self, member: str) -> None:
        """Let the member's sockets hear how many jobs are left."""
        self.publish(member, JobsAhead(member, self._ahead.get(member, 0), tell=True))

    def explain(self, job: Job, reason: str | None, message: str | None = None) -> None:
        """Show why a job does not continue, in a word and in a sentence."""
        if (job.reason, job.message) != (reason, message):
            job.reason, job.message = reason, message
            self.changed(job)

    def tell_running(self, member: str, client_id: str, socket: str) -> None:
        """Tell a socket that has just opened which node of its client runs."""
        for job in reversed(self._engine.followed.values()):
            if job.client_id == client_id and job.member == member and job.runner is not None:
                node = job.runner.tracker.nodes.display_node
                if node is not None and self._term.lasts:
                    news = NodeRuns(member, client_id, socket, node)
                    self._bus.publish(topic_of(member, client_id), news)
                    return

    def tell_all(self) -> None:
        """Tell of all jobs in a while, once for all who ask meanwhile."""
        if self._telling_all is None:
            loop = asyncio.get_running_loop()
            self._telling_all = loop.call_later(_TELLING, self._tell_all)

    def _tell_all(self) -> None:
        """Tell of all jobs once more, for those who have missed something."""
        self._telling_all = None
        for job in self._engine.jobs.values():
            known = job.accepted or job.state is JobState.UNKNOWN
            if known and not job.cancel_requested:
                self.changed(job)
        for member, count in self._ahead.items():
            self.publish(member, JobsAhead(member, count))

    def tell_ahead(self) -> None:
        """Tell members whose waiting jobs have moved up because of somebody else, in a while."""
        self._scheduler.changed()
        if self._telling is None and (self._ahead or len(self._scheduler.queue)):
            self._telling = asyncio.get_running_loop().call_later(_TELLING, self._tell_others)

    def _tell_others(self) -> None:
        self._telling = None
        self._note_blocked()
        members = self._scheduler.queue.members()
        if len(members) > 1:
            self._scheduler.forecast()  # of all members at once
        for member in {*members, *self._ahead}:
            self.note_ahead(member, tell=True)

    def _note_blocked(self) -> None:
        """Note on waiting jobs why their accounts take none."""
        for member in self._scheduler.queue.members():
            for found in self._scheduler.waiting(member, self._scheduler.queue.of(member)):
                self.explain(*found)

    def note_ahead(self, member: str, *, tell: bool) -> None:
        """Tell how many jobs of others go before the member's last one, if that has changed."""
        ahead = self._scheduler.before(member)
        if ahead != self._ahead.get(member, 0):
            if ahead:
                self._ahead[member] = ahead
            else:
                self._ahead.pop(member, None)
            self.publish(member, JobsAhead(member, ahead, tell))

    # --- what admins see -------------------------------------------------------------------

    def overview(self, member: str | None) -> OverviewAnswered:
        """All live jobs, or those of one member, and the accounts."""
        rank = {"running": 0, "pending": 1, "sending": 2}
        views = [
            _seen(job)
            for job in self._engine.jobs.values()
            if job.state not in (JobState.RECEIVED, JobState.QUEUED)
            and (job.accepted or job.state is JobState.UNKNOWN)
            and not job.cancel_requested
            and member in (None, job.member)
        ]
        views.sort(key=lambda view: (rank[view.shown], view.started_at or view.create_time))
        views += [
            replace(live_of(place.job), account="", before=place.before, reason=place.reason)
            for place in self._scheduler.forecast()
            if member in (None, place.job.member)
        ]
        return OverviewAnswered(tuple(views), self.accounts())

    def accounts(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
        return tuple(map(self._account_view, self._engine.workers.values()))

    def _account_view(self, worker: AccountWorker) -> AccountView:
        health = worker.health
        rest = health.until - time.monotonic()
        return AccountView(
            worker.name,
            worker.slots.count,
            self._scheduler.used(worker.name),
            health.reason,
            now() + int(rest * 1000) if not health.well and rest > 0 else None,
            worker.socket.connected,
            worker.socket.refused,
            worker.account.plan,
        )


def _seen(job: Job) -> LiveJob:
    """A live job as admins see it, with the node that runs."""
    view = live_of(job)
    if job.runner is None or job.state is not JobState.RUNNING:
        return view
    tracker = job.runner.tracker
    node = tracker.nodes.display_node
    type_ = None if node is None else tracker.nodes.types.get(node)
    return replace(view, progress=tracker.nodes.progress, node=node, node_type=type_)
