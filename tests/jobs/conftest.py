"""What clients ask about jobs, without any cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backend import open_database
from jobs.samples import NoChecks, Room, SilentEngine, estimator

from proxy.engine.recorder import JobRecorder
from proxy.engine.term import Term
from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.clients import Clients
from proxy.jobs.history import History
from proxy.jobs.live_feed import LiveFeed
from proxy.jobs.models import Job
from proxy.jobs.service import JobService
from proxy.jobs.submission import SubmissionService
from proxy.jobs.submission_limits import SubmissionLimits
from proxy.jobs.subscribers import Subscribers
from proxy.jobs.views import LiveJobs
from proxy.members.accounting import Limiter, Usage
from proxy.members.member import Member
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.budget import MemoryBudget
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.usage import UsageRepository


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    database = await open_database(tmp_path)
    repository, supervisor, clients = JobRepository(database), Supervisor(), Clients()
    lease = await LeaseRepository(database).acquire(ENGINE, "test", 60)
    assert lease is not None
    recorder = JobRecorder(repository, Term(lease), history_size=10_000)
    engine = SilentEngine()
    feed = LiveFeed(
        LiveJobs(repository, MemoryBudget(2**28)),
        Subscribers(clients, supervisor),
        History(repository.history, None),
    )
    submissions = SubmissionService(
        engine=engine,
        record=Job,
        repository=repository,
        feed=feed,
        clients=clients,
        checks=NoChecks(),
        limits=SubmissionLimits(
            repository,
            feed.live,
            Member,
            Limiter(Member, Usage(UsageRepository(database))),
            estimator(),
            BudgetRefusals(BudgetNoticeRepository(database), asyncio.Event()),
        ),
    )
    yield Room(JobService(submissions), engine, recorder, repository)
    await supervisor.close()
    await recorder.close()
    await database.close()


@pytest.fixture
async def full(room: Room) -> Room:
    for number, prompt_id in enumerate("abcd"):
        await room.end(prompt_id, 1000 + number, took=10 - number)
    return room
