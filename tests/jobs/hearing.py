"""What an engine tells, kept in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from proxy.jobs.clients import Clients
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.models import Job, JobState
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.storage.jobs import JobRepository
from proxy.translate.events import Message


class Told(Struct, frozen=True):
    """What was told of a job, as it was then, or of a member."""

    what: str
    about: str
    state: JobState | None = None
    reason: str | None = None
    tell: bool = False
    forgotten: tuple[str, ...] = ()
    count: int = 0
    message: Message | None = None


class Heard(LiveFeed):
    """A feed that keeps the `news`, and passes each on to those who `follow`."""

    def __init__(self, repository: JobRepository | None = None) -> None:
        jobs: Any = repository
        super().__init__(
            LiveJobs(jobs, MemoryBudget(2**28)),
            Subscribers(Clients(), Supervisor()),
            History(None if jobs is None else jobs.history, None),
        )
        self.news: list[Told] = []
        self.follow: list[Callable[[Told], None]] = []

    def _hear(self, told: Told) -> None:
        self.news.append(told)
        for follower in list(self.follow):
            follower(told)

    def changed(self, job: Job, *, tell: bool = False) -> None:
        self._hear(Told("changed", job.prompt_id, job.state, job.reason, tell))
        super().changed(job, tell=tell)

    def left(self, job: Job, *, more: bool = False) -> None:
        self._hear(Told("left", job.prompt_id))
        super().left(job, more=more)

    def ahead(self, member: str, count: int, *, tell: bool) -> None:
        self._hear(Told("ahead", member, count=count, tell=tell))
        super().ahead(member, count, tell=tell)

    def recorded(self, job: Job, forgotten: tuple[str, ...] = ()) -> None:
        self._hear(Told("recorded", job.prompt_id, forgotten=forgotten))
        super().recorded(job, forgotten)

    def message(self, job: Job, message: Message) -> None:
        self._hear(Told("message", job.prompt_id, message=message))
        super().message(job, message)
