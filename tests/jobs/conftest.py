"""A cloud whose jobs run for as long as a test wants, with a proxy of one slot; and the api's half
of a replica without any cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import gated
import pytest
from backend import open_database
from jobs.samples import Room
from stack import Client, running_proxy

from proxy.bus import EventBus
from proxy.jobs.recorder import JobRecorder, Term
from proxy.jobs.service import JobService
from proxy.jobs.submission import Clients, SubmissionService
from proxy.jobs.views import LiveJobs
from proxy.members.accounting import Limiter, Usage
from proxy.members.member import Member
from proxy.simulator import Simulator
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.storage.usage import UsageRepository
from proxy.supervisor import Supervisor

ONE = {"slots": 1, "slots_ahead": 0}


@pytest.fixture
def opened() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def simulator(opened: asyncio.Event) -> AsyncIterator[Simulator]:
    async with Simulator(extra_nodes=[gated.gate(opened)]) as running:
        yield running


@pytest.fixture
async def client(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[Client]:
    async with running_proxy(simulator, tmp_path / "data", **ONE) as proxy:
        yield Client(session, proxy.url)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    database = await open_database(tmp_path)
    repository, bus, supervisor = JobRepository(database), EventBus(), Supervisor()
    lease = await LeaseRepository(database).acquire(ENGINE, "test", 60)
    assert lease is not None
    recorder = JobRecorder(repository, Term(lease), history_size=10_000)
    submissions = SubmissionService(
        bus=bus,
        repository=repository,
        live=LiveJobs(bus, repository, supervisor),
        clients=Clients(),
        member=Member,
        limiter=Limiter(Member, Usage(UsageRepository(database))),
    )
    yield Room(JobService(submissions, supervisor), bus, recorder, repository)
    await supervisor.close()
    await recorder.close()
    await database.close()


@pytest.fixture
async def full(room: Room) -> Room:
    for number, prompt_id in enumerate("abcd"):
        await room.end(prompt_id, 1000 + number, took=10 - number)
    return room
