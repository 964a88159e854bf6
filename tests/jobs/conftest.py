"""The api's half of a replica, without any cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backend import open_database
from jobs.replica import LosingBus, Replica
from jobs.samples import NoChecks, Room, estimator
from proxy.jobs.replica_feed import ReplicaFeed
from proxy.jobs.replica_jobs import ReplicaJobs

from proxy.budget import MemoryBudget
from proxy.bus import EventBus
from proxy.engine.recorder import JobRecorder
from proxy.engine.replay import life_of
from proxy.engine.term import Term
from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.clients import Clients
from proxy.jobs.engine_client import EngineClient
from proxy.jobs.history import History
from proxy.jobs.service import JobService
from proxy.jobs.submission import SubmissionService
from proxy.jobs.submission_limits import SubmissionLimits
from proxy.jobs.subscribers import Subscribers
from proxy.members.accounting import Limiter, Usage
from proxy.members.member import Member
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.database import Database
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.usage import UsageRepository
from proxy.supervisor import Supervisor


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    database = await open_database(tmp_path)
    repository, bus, supervisor = JobRepository(database), EventBus(), Supervisor()
    lease = await LeaseRepository(database).acquire(ENGINE, "test", 60)
    assert lease is not None
    recorder = JobRecorder(repository, Term(lease), history_size=10_000)
    feed = ReplicaFeed(
        ReplicaJobs(repository, MemoryBudget(2**28), bus, supervisor),
        Subscribers(bus, supervisor),
        History(bus, repository.history, None),
        replay=life_of,
    )
    submissions = SubmissionService(
        engine=EngineClient(bus),
        repository=repository,
        feed=feed,
        clients=Clients(),
        checks=NoChecks(),
        limits=SubmissionLimits(
            repository,
            feed.live,
            Member,
            Limiter(Member, Usage(UsageRepository(database))),
            estimator(),
            BudgetRefusals(BudgetNoticeRepository(database), bus),
        ),
    )
    yield Room(JobService(submissions), bus, recorder, repository)
    await supervisor.close()
    await recorder.close()
    await database.close()


@pytest.fixture
async def full(room: Room) -> Room:
    for number, prompt_id in enumerate("abcd"):
        await room.end(prompt_id, 1000 + number, took=10 - number)
    return room


@pytest.fixture
async def replica(database: Database, monkeypatch: pytest.MonkeyPatch) -> Replica:
    monkeypatch.setattr("proxy.jobs.replica_feed._MOMENT_TIMEOUT", 30.0)  # a loaded machine is slow
    bus, repository = LosingBus(), JobRepository(database)
    lease = await LeaseRepository(database).acquire(ENGINE, "elsewhere", 60)
    assert lease is not None
    recorder = JobRecorder(repository, Term(lease), history_size=10)
    live, subscribers = (
        ReplicaJobs(repository, MemoryBudget(2**28), bus, Supervisor()),
        Subscribers(bus, Supervisor()),
    )
    history = History(bus, repository.history, None)
    feed = ReplicaFeed(live, subscribers, history, replay=life_of)
    return Replica(bus, repository, recorder, live, subscribers, feed)
