"""Jobs: the api's half, the bus, and the election of the engine that runs them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from proxy import clock, randomness
from proxy.app.accounts import CloudAccounts
from proxy.app.pricing import pricing_of
from proxy.app.process import Process, read_at_start
from proxy.app.resources import Resources
from proxy.app.storage import OpenStorage
from proxy.bus import EventBus
from proxy.engine.announcer import Announcer
from proxy.engine.election import Election
from proxy.engine.engine import Background, Engine
from proxy.engine.handover import Handover
from proxy.engine.news_publisher import NewsPublisher
from proxy.engine.recorder import JobRecorder
from proxy.engine.replay import life_of
from proxy.engine.resources import JobResources
from proxy.engine.run_times import RunTimes
from proxy.engine.scheduler import Scheduler
from proxy.engine.spending_gate import SpendingGate
from proxy.engine.term import Term
from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.bus_listener import BusListener
from proxy.jobs.checks import Checks
from proxy.jobs.clients import Clients
from proxy.jobs.engine_client import EngineClient
from proxy.jobs.estimates import JobEstimator
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.messages import MembersChanged
from proxy.jobs.replica_feed import ReplicaFeed
from proxy.jobs.replica_jobs import ReplicaJobs
from proxy.jobs.service import JobService
from proxy.jobs.submission import SubmissionService
from proxy.jobs.submission_limits import SubmissionLimits
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.settings import Settings
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import LeaseRepository
from proxy.storage.run_times import RunTimeRepository
from proxy.supervisor import Supervisor
from proxy.webhooks.runner import WebhookRunner

#: How long a start waits for the bus (seconds), which is not needed to serve.
_BUS_TIMEOUT = 5.0


@dataclass(frozen=True)
class Jobs:
    """The api's half of jobs, and the bus to the engine."""

    bus: EventBus
    engine: EngineClient
    repository: JobRepository
    clients: Clients
    service: JobService


@asynccontextmanager
async def open_jobs(
    process: Process, storage: OpenStorage, resources: Resources
) -> AsyncIterator[Jobs]:
    """Open the bus and what answers clients about jobs; the service is not started yet."""
    settings, policy, members = process.settings, process.policy, storage.members
    bus = await _open_bus(settings, storage.supervisor)
    try:
        members.subscribe(lambda: bus.publish("members", MembersChanged()))
        repository = JobRepository(storage.database, storage.cipher)
        clients, engine = Clients(policy.client_parallelism), EngineClient(bus)
        feed = _feed(process, storage, resources, bus, repository)
        submissions = SubmissionService(
            engine=engine,
            repository=repository,
            feed=feed,
            clients=clients,
            checks=Checks(
                resources.catalog,
                resources.files.graphs,
                members,
                resources.packs,
                validates=settings.validate_graphs,
                catalog_timeout=process.timeouts.catalog_timeout,
                turns=process.turns,
            ),
            limits=SubmissionLimits(
                repository,
                feed.live,
                members.get,
                resources.accounting.limiter,
                JobEstimator(
                    pricing_of(settings, resources.catalog),
                    resources.catalog.allowed,
                    process.turns,
                ),
                BudgetRefusals(BudgetNoticeRepository(storage.database), bus),
            ),
            timeout=policy.submit_timeout,
        )
        yield Jobs(bus, engine, repository, clients, JobService(submissions))
    finally:
        await bus.close()


def _feed(
    process: Process,
    storage: OpenStorage,
    resources: Resources,
    bus: EventBus,
    repository: JobRepository,
) -> LiveFeed:
    """Return the feed of jobs: from the engine of this process, or over a bus of replicas."""
    supervisor, budget = storage.supervisor, process.budget
    rest = (
        Subscribers(bus, supervisor, process.loop_turns, budget),
        History(bus, repository.history, resources.files),
        process.policy.status_interval,
    )
    if not bus.lossy:
        return LiveFeed(LiveJobs(repository, budget), *rest)
    return ReplicaFeed(ReplicaJobs(repository, budget, bus, supervisor), *rest, replay=life_of)


async def _open_bus(settings: Settings, supervisor: Supervisor) -> EventBus:
    if settings.bus is None:
        return EventBus()
    from proxy.bus.valkey import ValkeyBus  # redis is not installed everywhere

    bus = ValkeyBus(settings.bus.get_secret_value())
    supervisor.keep(bus.run, "bus")
    await bus.wait_connected(_BUS_TIMEOUT)
    return bus


@asynccontextmanager
async def run_engine(
    process: Process,
    storage: OpenStorage,
    cloud: CloudAccounts,
    resources: Resources,
    jobs: Jobs,
    webhooks: WebhookRunner,
) -> AsyncIterator[Election]:
    """Stand for election to run the engine, and start the service of jobs. Raises `ConfigError`."""
    settings, policy = process.settings, process.policy
    listener = BusListener(jobs.bus) if jobs.bus.lossy else jobs.service.feed

    def engine(term: Term) -> Engine:
        scheduler = Scheduler(
            cloud.accounts,
            storage.members.get,
            policy.fair_by,
            clock=clock.monotonic,
            turn=asyncio.Event(),
        )
        run_times = RunTimes(RunTimeRepository(storage.database))
        return Engine(
            accounts=cloud.accounts,
            scheduler=scheduler,
            recorder=JobRecorder(
                jobs.repository,
                term,
                history_size=policy.history_size,
                budgets=resources.accounting.limiter.budgets,
                shares=scheduler.shares_of,
                outbox=webhooks.outbox,
                bus=jobs.bus,
            ),
            announcer=Announcer(NewsPublisher(jobs.bus, term, listener), process.metrics),
            resources=JobResources(
                resources.files,
                resources.catalog,
                resources.packs,
                pricing_of(settings, resources.catalog),
                run_times,
                process.budget,
                SpendingGate(
                    jobs.repository,
                    term,
                    resources.accounting.limiter,
                    jobs.service.submissions.limits.estimator,
                    run_times,
                    jobs.service.submissions.limits.refusals,
                    refuses=settings.over_budget == "refuse",
                ),
                process.loop_turns,
            ),
            policy=replace(policy, timeouts=process.timeouts),
            background=Background(Supervisor(process.failed), webhooks),
        )

    leases, holder = LeaseRepository(storage.database), _replica_name()
    handover = None
    if settings.database is not None:
        handover = Handover(leases, jobs.bus, cloud.accounts, holder, process.metrics)
    election = Election(
        leases, jobs.engine, engine, cloud.accounts, holder, settings.engine_lease, handover
    )
    try:
        for start in (election.start, jobs.service.feed.start):
            await read_at_start("The jobs cannot be read", partial(start, storage.supervisor))
        yield election
    finally:
        await election.leave()


def _replica_name() -> str:
    """Return a name of this process that no other one has or had."""
    return f"{socket.gethostname()}:{os.getpid()}:{randomness.token_hex(4)}"
