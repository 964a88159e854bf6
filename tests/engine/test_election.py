"""Which of several processes runs the jobs: two elections over one database and one bus."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
import waiting
from backend import open_database
from stack import Client, running_proxy
from waiting import ids, queued, until

from proxy.bus import EventBus
from proxy.engine.election import Election
from proxy.engine.term import Term
from proxy.jobs.conversion import payload_of, stored_of
from proxy.jobs.models import Job, JobState
from proxy.jobs.submission import JobRequest, new_job
from proxy.settings import AccountSettings, Secret
from proxy.simulator import HttpFault, Simulator
from proxy.storage.database import Database, FencedError, StorageError
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import LeaseRepository, check_fence
from proxy.supervisor import Supervisor

PATIENCE = 30.0


class RecordingEngine:
    """An engine that does nothing, and tells when it began and how it ended."""

    def __init__(self, term: Term) -> None:
        self.term = term
        self.closed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.lasted_when_closed = False

    async def start(self) -> None:
        pass

    async def close(self, *, write: bool = True) -> None:
        self.lasted_when_closed = self.term.lasts
        self.closed.set_result(write)


class Replica:
    """A process as far as it wants the lease."""

    def __init__(self, database: Database, bus: EventBus, name: str, length: float) -> None:
        self.engines: asyncio.Queue[RecordingEngine] = asyncio.Queue()
        self.leases = LeaseRepository(database)
        make: Callable[[Term], Any] = self._make
        self.election = Election(
            self.leases, bus, make, {}, holder=name, length=length, alone=False
        )

    def _make(self, term: Term) -> RecordingEngine:
        engine = RecordingEngine(term)
        self.engines.put_nowait(engine)
        return engine

    async def active(self) -> RecordingEngine:
        """The next engine that begins here."""
        async with asyncio.timeout(PATIENCE):
            return await self.engines.get()


@asynccontextmanager
async def replicas(database: Database, length: float = 0.5) -> AsyncIterator[list[Replica]]:
    bus, supervisor = EventBus(), Supervisor()
    both = [Replica(database, bus, name, length) for name in ("one", "two")]
    for one in both:
        await one.election.start(supervisor)
    try:
        yield both
    finally:
        for one in both:
            await one.election.leave()
        await supervisor.close()


async def test_one_of_two_is_active_and_the_other_follows_at_once_when_it_leaves(
    database: Database,
) -> None:
    async with replicas(database, length=600.0) as (one, two):
        first = await one.active()
        assert one.election.is_active()
        assert not two.election.is_active()
        await one.election.leave()
        second = await two.active()
        assert await first.closed, "it may write to its end"
        assert second.term.lease.epoch > first.term.lease.epoch
        assert not first.term.lasts


async def test_the_lease_is_renewed_for_as_long_as_its_holder_lives(database: Database) -> None:
    async with replicas(database) as (one, two):
        first = await one.active()
        until = first.term.until
        await waiting.until(lambda: first.term.until > until)
        assert first.term.lasts
        assert not two.election.is_active()


async def test_a_holder_that_cannot_renew_stops_by_its_own_clock_and_another_follows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicas(database, length=2.0) as (one, two):
        first = await one.active()

        async def refuse(*_: object) -> bool:
            raise StorageError("the database is unavailable")

        monkeypatch.setattr(one.leases, "renew", refuse)
        monkeypatch.setattr(one.leases, "acquire", refuse)
        second = await two.active()
        assert await first.closed is False, "another one may run the jobs by now"
        assert not first.lasted_when_closed
        with pytest.raises(FencedError):
            first.term.check()
        second.term.check()


async def test_a_write_that_was_refused_ends_the_term_and_what_was_decided_in_it(
    database: Database,
) -> None:
    async with replicas(database) as (one, _):
        first = await one.active()
        await LeaseRepository(database).acquire("engine", "three", 0.1, alone=True)
        with pytest.raises(FencedError):
            await database.write(lambda connection: check_fence(connection, first.term.fence))
        first.term.end()
        assert await first.closed is False


async def test_a_term_that_is_over_is_not_renewed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with replicas(database) as (one, _):
        first = await one.active()
        renew = one.leases.renew

        async def renewed(*arguments: Any) -> bool:
            first.term.end()  # a write was refused meanwhile
            return await renew(*arguments)

        monkeypatch.setattr(one.leases, "renew", renewed)
        assert await first.closed is False
        assert not first.term.lasts


async def test_an_engine_that_cannot_begin_leaves_the_lease_to_others(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, supervisor = EventBus(), Supervisor()
    one, two = [Replica(database, bus, name, 600.0) for name in ("one", "two")]

    async def fail(_: RecordingEngine) -> None:
        raise StorageError("a job cannot be read")

    with monkeypatch.context() as broken:
        broken.setattr(RecordingEngine, "start", fail)
        with pytest.raises(StorageError):
            await one.election.start(supervisor)
    await two.election.start(supervisor)
    assert two.election.is_active()
    assert await one.engines.get() is not None
    await two.election.leave()
    await supervisor.close()


async def test_where_nobody_else_can_be_the_lease_of_a_process_that_died_is_taken_at_once(
    database: Database,
) -> None:
    await LeaseRepository(database).acquire("engine", "died", 600.0)
    bus, supervisor = EventBus(), Supervisor()
    made: list[RecordingEngine] = []

    def make(term: Term) -> Any:
        made.append(RecordingEngine(term))
        return made[-1]

    election = Election(
        LeaseRepository(database), bus, make, {}, holder="new", length=0.1, alone=True
    )
    await election.start(supervisor)
    assert election.is_active()
    assert made[0].term.lasts
    await election.leave()
    await supervisor.close()


def account(name: str, simulator: Simulator) -> AccountSettings:
    return AccountSettings(
        name=name, base_url=simulator.base_url, key=Secret(simulator.key), slots=1
    )


async def left_behind(folder: Path, state: JobState, **fields: object) -> Job:
    """A job that an engine had in this state when it died."""
    job = new_job("local", JobRequest(graphs.plain(1)), prompt_id=str(uuid.uuid4()))
    job.state = state
    for name, value in fields.items():
        setattr(job, name, value)
    database = await open_database(folder)
    job.order = (await JobRepository(database).insert(stored_of(job), payload_of(job))).key
    await database.close()
    return job


@pytest.mark.parametrize("state", [JobState.RECEIVED, JobState.QUEUED])
async def test_what_had_not_gone_goes_now(
    state: JobState, simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    left = await left_behind(tmp_path, state)
    async with running_proxy(simulator, tmp_path) as proxy:
        entry = await Client(session, proxy.url).ended(left.prompt_id)
        assert entry["status"]["completed"] is True
    assert len(simulator.jobs) == 1


async def test_what_the_cloud_has_is_found_by_its_mark_and_not_sent_again(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    left = await left_behind(tmp_path, JobState.SUBMITTING, account="default", accepted=True)
    url = simulator.base_url / "api/prompt"
    body = {"prompt": left.graph, "extra_data": {"comfy_cloud_proxy": left.mark}}
    async with session.post(url, json=body, headers={"X-API-Key": simulator.key}) as answer:
        assert answer.status == 200
    async with running_proxy(simulator, tmp_path) as proxy:
        entry = await Client(session, proxy.url).ended(left.prompt_id)
        assert entry["status"]["completed"] is True
    assert len(simulator.jobs) == 1


async def test_what_the_cloud_does_not_have_for_certain_goes_again(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    left = await left_behind(tmp_path, JobState.UNKNOWN, account="default", accepted=True)
    policy = {"adoption_patience": 0.0}
    async with running_proxy(simulator, tmp_path, policy=policy) as proxy:
        entry = await Client(session, proxy.url).ended(left.prompt_id)
        assert entry["status"]["completed"] is True
    assert len(simulator.jobs) == 1


async def test_nothing_is_certain_while_the_account_cannot_be_read(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    left = await left_behind(tmp_path, JobState.UNKNOWN, account="default", accepted=True)
    broken = simulator.faults.add(HttpFault("GET /api/jobs*", status=500), times=None)
    policy = {"adoption_patience": 0.0}
    async with running_proxy(simulator, tmp_path, policy=policy) as proxy:
        client = Client(session, proxy.url)
        await simulator.signal.until(lambda: broken.happened > 1, 20)
        assert await queued(client) == [left.prompt_id]
        assert simulator.jobs == {}
        simulator.faults.remove(broken)
        await client.ended(left.prompt_id)
    assert len(simulator.jobs) == 1


async def test_what_no_client_wants_any_more_is_not_sent_again(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    left = await left_behind(
        tmp_path, JobState.UNKNOWN, account="default", accepted=True, cancel_requested=True
    )
    policy = {"adoption_patience": 0.0}
    async with running_proxy(simulator, tmp_path, policy=policy) as proxy:
        client = Client(session, proxy.url)
        repository = proxy.services.jobs._repository

        async def is_gone() -> bool:
            return await repository.get(left.member, left.prompt_id) is None

        await until(is_gone)
        assert await ids(client) == []
    assert simulator.jobs == {}


async def test_a_job_is_found_when_its_account_has_another_name(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, opened: asyncio.Event
) -> None:
    async with running_proxy(simulator, tmp_path, accounts=[account("old", simulator)]) as proxy:
        prompt_id = await gated.running_one(Client(session, proxy.url))
    async with running_proxy(simulator, tmp_path, accounts=[account("new", simulator)]) as proxy:
        client = Client(session, proxy.url)
        opened.set()
        assert (await client.ended(prompt_id))["status"]["completed"] is True


async def test_a_job_whose_account_is_gone_says_so_and_ends_as_lost(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path, accounts=[account("old", simulator)]) as proxy:
        prompt_id = await gated.running_one(Client(session, proxy.url))
    async with (
        Simulator() as other,
        running_proxy(
            other, tmp_path, accounts=[account("new", other)], policy={"lost_timeout": 1.0}
        ) as proxy,
    ):
        client = Client(session, proxy.url)
        job = (await client.get(f"api/jobs/{prompt_id}"))[1]
        assert (job["status"], job["queue_reason"]) == ("in_progress", "no_account")
        entry = await client.ended(prompt_id)
        _, error = entry["status"]["messages"][-1]
        assert error["exception_type"] == "JobLost"
        assert "account old" in error["exception_message"]
