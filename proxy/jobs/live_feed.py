"""What the engine tells of jobs, for the views of clients, the history and the sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxy.jobs.history import History
from proxy.jobs.models import Job
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.runtime.supervisor import Supervisor
from proxy.translate.events import Message, status


@dataclass(eq=False, repr=False)
class LiveFeed:
    """Brings the views of `live` jobs, the sockets of `subscribers` and the `history` up to date.

    Clients of live jobs hear a `status` each `status_interval` seconds.
    """

    live: LiveJobs
    subscribers: Subscribers
    history: History
    status_interval: float = 5.0
    _watchers: list[Callable[[], None]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.history.subscribe(self._tell_watchers)

    def start(self, supervisor: Supervisor) -> None:
        """Begin to tell clients now and then how many jobs are left."""
        self.subscribers.start()
        supervisor.keep(self._keep_alive, "status heartbeat")

    # --- what the engine tells -------------------------------------------------------------

    def changed(self, job: Job, *, tell: bool = False) -> None:
        """Take note that a job in the queue has changed; with `tell` the member's sockets hear how
        many jobs are left."""
        self._changed(job.member, tell=tell)

    def left(self, job: Job, *, more: bool = False) -> None:
        """Take note that a job has left the queue. With `more` others leave with it, and the last
        one tells how many are left."""
        self._changed(job.member, tell=False)
        if not more:
            self._tell_status(job.member)

    def ahead(self, member: str, count: int, *, tell: bool) -> None:
        """Note how many jobs of others go before the member's last waiting one."""
        self.live.of(member).ahead = count
        self._changed(member, tell=tell)

    def recorded(self, job: Job, forgotten: tuple[str, ...] = ()) -> None:
        """Note that a job is in the history, and that its member's oldest entries are
        `forgotten`."""
        self.history.recorded(job.key, forgotten)
        self._changed(job.member, tell=False)

    def message(self, job: Job, message: Message) -> None:
        """Deliver a message to the client of a job."""
        self.subscribers.publish(job.member, job.client_id, message, watched=job.watched)

    def _changed(self, member: str, *, tell: bool) -> None:
        """Let watchers know of a change, and with `tell` the sockets of the member, too, unless it
        has a submission under way: that tells them when its client has the answer."""
        self._tell_watchers()
        if tell and not self.live.of(member).answering:
            self._tell_status(member)

    def _tell_watchers(self) -> None:
        for changed in self._watchers:
            changed()

    def _tell_status(self, member: str) -> None:
        """Tell all sockets of the member how many jobs wait or run."""
        self.subscribers.broadcast(member, status(self.live.of(member).remaining))

    @contextmanager
    def answering(self, member: str) -> Iterator[None]:
        """Tell no sockets of a member how many jobs are left until its client has the answer to a
        submission, at the end of the block."""
        live = self.live.of(member)
        live.answering += 1
        try:
            yield
        finally:
            live.answering -= 1
            self._tell_status(member)

    @contextmanager
    def watched(self, changed: Callable[[], None]) -> Iterator[None]:
        """Call `changed` in the block whenever anything has become of a job."""
        self._watchers.append(changed)
        try:
            yield
        finally:
            self._watchers.remove(changed)

    async def _keep_alive(self) -> None:
        """Send a `status` now and then, for clients that take a silent socket for a dead server."""
        while True:
            await asyncio.sleep(self.status_interval)
            for member, live in self.live.members():
                news = status(live.remaining)
                for client_id in dict.fromkeys(job.client_id for job in live.jobs.values()):
                    self.subscribers.publish(member, client_id, news)
