"""An engine's table and slots without a cloud, and all that they say."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from jobs.hearing import Heard

from proxy.engine.accounts import Account, Slots
from proxy.engine.forecast import Forecast
from proxy.engine.live_job import LiveJob
from proxy.engine.node_states import NodeReport
from proxy.engine.overview import Overview
from proxy.engine.progress import Expected, RunProgress
from proxy.engine.queue_news import QueueNews
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.term import Term
from proxy.jobs.models import JobEnd, JobState
from proxy.members.member import Member
from proxy.metrics import Metrics
from proxy.storage.database import StorageError
from proxy.storage.history import Recorded
from proxy.storage.leases import Lease
from proxy.webhooks.outbox import Outbox


@dataclass
class Recorder:
    """What a table notes and writes; the first `refusals` writes fail."""

    term: Term
    noted: list[tuple[str, JobState]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    refusals: int = 0
    jobs: Any = None
    outbox: Outbox = field(default_factory=Outbox)
    started_jobs: list[str] = field(default_factory=list)

    def started(self, job: LiveJob) -> None:
        self.started_jobs.append(job.prompt_id)

    def changed(self, job: LiveJob) -> None:
        self.noted.append((job.prompt_id, job.state))

    async def end(self, job: LiveJob, _end: JobEnd) -> Recorded:
        self._refuse()
        self.ended.append(job.prompt_id)
        return Recorded(("forgotten",))

    async def discard(self, *jobs: LiveJob) -> None:
        self._refuse()
        self.discarded += [job.prompt_id for job in jobs]

    async def discard_soon(self, job: LiveJob) -> bool:
        await self.discard(job)
        return True

    def _refuse(self) -> None:
        if self.refusals:
            self.refusals -= 1
            raise StorageError("disk full")


@dataclass
class FakeRun:
    """A job that is followed and is at a node."""

    job: LiveJob
    node: str | None = "1"
    node_type: str | None = "KSampler"
    progress: RunProgress = field(default_factory=lambda: RunProgress(Expected({}), 0.5, 1234.5))
    ending: bool = False
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[str] = field(default_factory=list)

    def reports(self, limit: int) -> dict[str, NodeReport]:
        return dict(islice({"1": NodeReport("running", 1, 2, 5, None)}.items(), limit))

    def release(self) -> None:
        self.asked.append("release")

    def read_detail(self) -> None:
        self.asked.append("read detail")

    def withdraw(self) -> None:
        self.asked.append("withdraw")
        self.finished.set()


class World:
    """The parts, joined over one account of one slot."""

    def __init__(self, **accounts: Account) -> None:
        self.heard = Heard()
        self.term = Term(Lease("engine", "one", 1), math.inf)
        self.metrics = Metrics()
        self.recorder = Recorder(self.term)
        cloud: Any = None
        self.accounts = accounts or {"one": Account("one", cloud, "", slots=Slots(1))}
        self.turn = asyncio.Event()
        self.scheduler = Scheduler(
            self.accounts, Member, "jobs", clock=time.monotonic, turn=self.turn
        )
        self.forecast = Forecast(self.scheduler)
        recorder: Any = self.recorder
        self.table = JobTable(recorder, self.heard, self.term, self.metrics)
        self.news = QueueNews(self.table, self.scheduler, self.forecast)
        self.overview = Overview(self.table, self.scheduler, self.forecast, {})
        self.received = self.heard.news

    def add(self, job: LiveJob) -> LiveJob:
        self.table.add(job)
        if job.state is JobState.QUEUED:
            self.scheduler.enqueue(job)
        return job

    def follow(self, job: LiveJob, node: str | None = "1") -> FakeRun:
        self.table.add(job)
        run: Any = FakeRun(job, node)
        self.table.follow(job, run)
        followed: FakeRun = run
        return followed

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"comfy_cloud_proxy_{name}", labels)
