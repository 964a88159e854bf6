"""An engine over a simulated cloud and real storage, without the rest of a proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from backend import open_database
from jobs.hearing import Heard
from stack import QUICK
from waiting import until

from proxy.catalog.node_classes import Nodes
from proxy.cloud.client import CloudClient
from proxy.cloud.resilience import RetryPolicy
from proxy.costs.job_cost import Pricing
from proxy.engine.accounts import Account, Slots
from proxy.engine.engine import Background, Engine
from proxy.engine.live_job import LiveJob
from proxy.engine.policy import Policy
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.engine.run_times import RunTimes
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.term import Term
from proxy.jobs.conversion import job_of_request, payload_of, sizes_of, stored_of
from proxy.jobs.models import Job, JobRequest
from proxy.members.member import Member
from proxy.metrics import Metrics
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.simulator import Simulator
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.encryption import Cipher
from proxy.storage.job_tables import HistoryEntry
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.run_times import RunTimeRepository
from proxy.storage.webhook_deliveries import WebhookDeliveryRepository
from proxy.storage.webhooks import WebhookRepository
from proxy.translate.errors import LocalError
from proxy.translate.events import Event
from proxy.webhooks.addresses import WebhookAddresses
from proxy.webhooks.delivery import RetrySchedule, WebhookCleanup, WebhookDelivery
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.runner import WebhookRunner
from proxy.webhooks.sender import WebhookSender


class Files:
    """Files that have the same names on both sides."""

    output_directory = None

    @property
    def outputs(self) -> Files:
        return self

    graphs = outputs

    async def substitute(self, _member: str, graph: Any, **_: Any) -> Any:
        return graph

    async def reveal(self, _member: str, value: Any, _job: str | None = None) -> Any:
        return value

    async def localise(self, *given: Any, **_: Any) -> Any:
        return given[-1]


class Catalog:
    """A catalog that knows no class."""

    nodes = Nodes({})

    def known(self, _class: str) -> None:
        return None

    def needs_of(self, _graph: Any) -> None:
        return None

    async def wait_loaded(self, _timeout: float) -> bool:
        return True

    async def fetched(self, _timeout: float) -> bool:
        return True


@dataclass(frozen=True)
class Answer:
    """What the client of a job was told."""

    node_errors: Mapping[str, Any] | None = None
    error: LocalError | None = None


@dataclass
class Rig:
    """The engine, and all that it tells."""

    heard: Heard
    repository: JobRepository
    engine: Engine
    count: int = 0

    def job(self, graph: dict[str, Any], **fields: Any) -> LiveJob:
        self.count += 1
        request = JobRequest(graph, extra_data=fields.pop("extra_data", {}))
        job = job_of_request(LiveJob, "local", request, prompt_id=f"job-{self.count}")
        for name, value in fields.items():
            setattr(job, name, value)
        return job

    async def store(self, job: LiveJob) -> LiveJob:
        payload = payload_of(job.loaded)
        job.loaded.size, job.loaded.run_size = sizes_of(payload)
        stored = await self.repository.insert(stored_of(job), payload)
        job.order, job.number = stored.order, job.number or self.count
        return job

    async def submit(self, graph: dict[str, Any], **fields: Any) -> tuple[LiveJob, Answer]:
        """Submit a job, and let its messages flow when the answer is there."""
        job = await self.store(self.job(graph, **fields))
        async with asyncio.timeout(30.0):
            answered = await self.engine.submit(job)
        refused = isinstance(answered, LocalError)
        answer = Answer(error=answered) if refused else Answer(answered)
        live = self.engine.table.get(job.key)
        self.engine.release(job.key, watched=True)
        return live or job, answer

    async def cancel(self, *jobs: Job, interrupt: bool = False) -> bool:
        async with asyncio.timeout(30.0):
            answer = await self.engine.cancel([job.key for job in jobs], interrupt=interrupt)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ended(self, job: Job) -> HistoryEntry:
        """The entry of a job, once its client has heard of the end."""
        await until(lambda: "executing None" in self.messages_of(job))
        entry = await self.repository.history.entry("local", job.prompt_id)
        assert entry is not None
        return entry

    async def waiting(self) -> list[str]:
        """The ids of the jobs that wait, as they came."""
        rows = await self.repository.live()
        return [row.prompt_id for row in rows if row.state == "queued"]

    async def is_gone(self, job: Job) -> bool:
        return await self.repository.get("local", job.prompt_id) is None

    def live(self, job: Job) -> LiveJob:
        """The record of a job."""
        live = self.engine.table.get(job.key)
        assert live is not None
        return live

    def messages_of(self, job: Job) -> list[str]:
        """What the client of a job has heard, in order."""
        messages = [told.message for told in self.heard.news if told.about == job.prompt_id]
        return [
            f"executing {published.data['node']}"
            if published.type == "executing"
            else published.type
            for published in messages
            if isinstance(published, Event)
        ]


@asynccontextmanager
async def running_engine(
    simulator: Simulator,
    folder: Path,
    *left_behind: Job,
    slots: int = 1,
    others: tuple[Simulator, ...] = (),
    names: tuple[str, ...] = ("default", "other"),
    retries: RetryPolicy | None = None,
    memory: int = 2**28,
    **policy: Any,
) -> AsyncIterator[Rig]:
    """An engine over an account of the simulator, and one of each other; `left_behind` are jobs
    that another engine had when it died."""
    database = await open_database(folder)
    repository, supervisor = JobRepository(database), Supervisor()
    heard = Heard(repository)
    lease = await LeaseRepository(database).acquire(ENGINE, "rig", 600.0, alone=True)
    assert lease is not None
    accounts = {}
    for name, cloud in zip(names, (simulator, *others), strict=False):
        client = CloudClient(cloud.base_url, cloud.key, retries=retries or RetryPolicy())
        await client.start()
        accounts[name] = Account(name, client, cloud.key, slots=Slots(slots))
    term = Term(lease)
    outbox, given = Outbox(), Policy(**{**QUICK, **policy})
    scheduler = Scheduler(
        accounts, Member, given.fair_by, clock=time.monotonic, turn=asyncio.Event()
    )
    parts: dict[str, Any] = {"files": Files(), "catalog": Catalog(), "packs": None}
    endpoints, deliveries = WebhookRepository(database), WebhookDeliveryRepository(database)
    webhooks = WebhookRunner(
        repository=endpoints,
        budgets=BudgetNoticeRepository(database),
        outbox=outbox,
        cleanup=WebhookCleanup(
            endpoints, deliveries, outbox=outbox, cipher=Cipher(), schedule=RetrySchedule()
        ),
        deliver=partial(
            WebhookDelivery,
            deliveries=deliveries,
            outbox=outbox,
            sender=WebhookSender(WebhookAddresses().check),
            cipher=Cipher(),
            metrics=Metrics(),
        ),
    )
    budget = MemoryBudget(memory)
    recorder = JobRecorder(
        repository,
        term,
        history_size=100,
        outbox=outbox,
        shares=scheduler.shares_of,
        budget=budget,
    )
    engine = Engine(
        accounts=accounts,
        scheduler=scheduler,
        recorder=recorder,
        table=JobTable(recorder, heard, term, Metrics()),
        resources=JobResources(
            pricing=Pricing(lambda _: None, lambda *_: None, 270_000),
            run_times=RunTimes(RunTimeRepository(database)),
            budget=budget,
            **parts,
        ),
        policy=given,
        background=Background(supervisor, webhooks),
    )
    rig = Rig(heard, repository, engine)
    try:
        for job in left_behind:
            await rig.store(job)
        await engine.start()
        yield rig
    finally:
        await engine.close()
        await asyncio.gather(*(account.cloud.close() for account in accounts.values()))
        await database.close()
