"""Jobs: what answers clients about them, and the engine that runs them for a term."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from msgspec.structs import replace

from proxy.app.accounts import CloudAccounts
from proxy.app.process import Process, read_at_start
from proxy.app.resources import Resources
from proxy.app.storage import OpenStorage
from proxy.catalog.service import Catalog
from proxy.costs.credits import from_credits
from proxy.costs.job_cost import Pricing
from proxy.costs.prices import estimated_price
from proxy.engine.engine import Background, Engine
from proxy.engine.live_job import LiveJob
from proxy.engine.member_spending import MemberSpending
from proxy.engine.recorder import JobRecorder
from proxy.engine.resources import JobResources
from proxy.engine.run_times import RunTimes
from proxy.engine.scheduler import Scheduler
from proxy.engine.spending_gate import SpendingGate
from proxy.engine.table import JobTable
from proxy.engine.term import Term
from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.checks import Checks
from proxy.jobs.clients import Clients
from proxy.jobs.estimates import JobEstimator
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.service import JobService
from proxy.jobs.submission import SubmissionService
from proxy.jobs.submission_limits import SubmissionLimits
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.settings import Settings
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.jobs import JobRepository
from proxy.storage.run_times import RunTimeRepository
from proxy.webhooks.outbox import Outbox
from proxy.webhooks.runner import WebhookRunner


@dataclass(frozen=True)
class Jobs:
    """The records of jobs, what hears of them, the limits of submissions and what was learned of
    earlier runs."""

    repository: JobRepository
    clients: Clients
    feed: LiveFeed
    limits: SubmissionLimits
    run_times: RunTimes


def open_jobs(process: Process, storage: OpenStorage, resources: Resources, outbox: Outbox) -> Jobs:
    """Return what the engine and the service of jobs have in common."""
    settings, policy = process.settings, process.policy
    repository = JobRepository(storage.database, storage.cipher)
    run_times = RunTimes(RunTimeRepository(storage.database))
    clients = Clients(policy.client_parallelism)
    feed = LiveFeed(
        LiveJobs(repository, process.budget),
        Subscribers(clients, storage.supervisor, process.loop_turns, process.budget),
        History(repository.history, resources.files),
        policy.status_interval,
    )
    limits = SubmissionLimits(
        repository,
        feed.live,
        storage.members.get,
        resources.accounting.limiter,
        JobEstimator(
            pricing_of(settings, resources.catalog),
            resources.catalog.allowed,
            run_times.typical,
            process.turns,
        ),
        BudgetRefusals(BudgetNoticeRepository(storage.database), outbox.budgets),
    )
    return Jobs(repository, clients, feed, limits, run_times)


def service_of(
    process: Process,
    storage: OpenStorage,
    resources: Resources,
    jobs: Jobs,
    engine: Engine,
    term: Term,
) -> JobService:
    """Return what answers clients about jobs in a term."""
    checks = Checks(
        resources.catalog,
        resources.files.graphs,
        storage.members,
        resources.packs,
        catalog_timeout=process.timeouts.catalog_timeout,
        turns=process.turns,
    )
    return JobService(
        SubmissionService(
            engine=engine,
            record=LiveJob,
            repository=jobs.repository,
            feed=jobs.feed,
            clients=jobs.clients,
            checks=checks,
            limits=jobs.limits,
            timeout=process.policy.submit_timeout,
            fence=term.fence,
        )
    )


@asynccontextmanager
async def run_engine(
    process: Process,
    storage: OpenStorage,
    cloud: CloudAccounts,
    resources: Resources,
    jobs: Jobs,
    webhooks: WebhookRunner,
    term: Term,
) -> AsyncIterator[Engine]:
    """Run the engine of a term. What it has not written is written at its end, if the term lasts.
    Raises `ConfigError`."""
    settings, policy = process.settings, process.policy
    limiter = resources.accounting.limiter
    scheduler = Scheduler(
        cloud.accounts,
        storage.members.get,
        policy.fair_by,
        clock=clock.monotonic,
        turn=asyncio.Event(),
        spending=MemberSpending(limiter.budgets),
    )
    recorder = JobRecorder(
        jobs.repository,
        term,
        history_size=policy.history_size,
        budgets=limiter.budgets,
        shares=scheduler.shares_of,
        outbox=webhooks.outbox,
        budget=process.budget,
    )
    engine = Engine(
        accounts=cloud.accounts,
        scheduler=scheduler,
        recorder=recorder,
        table=JobTable(recorder, jobs.feed, term, process.metrics),
        resources=JobResources(
            resources.files,
            resources.catalog,
            resources.packs,
            pricing_of(settings, resources.catalog),
            jobs.run_times,
            process.budget,
            SpendingGate(
                jobs.repository,
                term,
                limiter,
                jobs.limits.estimator,
                jobs.limits.refusals,
                scheduler,
            ),
            process.loop_turns,
        ),
        policy=replace(policy, timeouts=process.timeouts),
        background=Background(Supervisor(process.failed), webhooks),
    )
    try:
        await read_at_start("The jobs cannot be read", engine.start)
        storage.members.subscribe(scheduler.changed)
        jobs.feed.start(storage.supervisor)
        yield engine
    finally:
        await engine.close(write=term.lasts)


def pricing_of(settings: Settings, catalog: Catalog) -> Pricing:
    """Return the rates of the accounts, with the prices of the classes in the catalog."""
    return Pricing(
        catalog.known,
        estimated_price,
        from_credits(settings.credits_per_second),
        {
            table.name: from_credits(table.credits_per_second)
            for table in settings.accounts
            if table.credits_per_second is not None
        },
    )
