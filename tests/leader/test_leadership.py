"""Which of several processes runs the jobs: two elections over one database and one bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import waiting
from proxy.bus import EventBus
from proxy.engine.election import Election
from proxy.engine.handover import Handover
from proxy.jobs.engine_client import EngineClient

from proxy.engine.term import Term
from proxy.metrics import Metrics
from proxy.storage.database import Database, FencedError, StorageError
from proxy.storage.leases import LeaseRepository, check_fence
from proxy.supervisor import Supervisor

TIMEOUT = 30.0


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
        handover = Handover(self.leases, bus, {}, name, Metrics())
        self.election = Election(self.leases, EngineClient(bus), make, {}, name, length, handover)

    def _make(self, term: Term) -> RecordingEngine:
        engine = RecordingEngine(term)
        self.engines.put_nowait(engine)
        return engine

    async def active(self) -> RecordingEngine:
        """The next engine that begins here."""
        async with asyncio.timeout(TIMEOUT):
            return await self.engines.get()


@asynccontextmanager
async def replicas(database: Database, length: float = 0.5) -> AsyncIterator[list[Replica]]:
    bus, supervisor = EventBus(), Supervisor()
    both = [Replica(database, bus, name, length) for name in ("one", "two")]
    for election in both:
        await election.election.start(supervisor)
    try:
        yield both
    finally:
        for election in both:
            await election.election.leave()
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
    async with replicas(database, length=6.0) as (one, two):
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


async def test_the_lease_is_renewed_while_an_engine_begins(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin(engine: RecordingEngine) -> None:
        until = engine.term.until
        await waiting.until(lambda: engine.term.until > until or not engine.term.lasts)

    monkeypatch.setattr(RecordingEngine, "start", begin)
    async with replicas(database, length=2.0) as (one, two):
        first = await one.active()
        assert first.term.lasts
        assert one.election.is_active()
        assert two.engines.empty()


async def test_a_process_that_stops_while_its_engine_begins_stops_without_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails then does not take the place of the cancellation."""
    begun = asyncio.Event()

    async def begin(_: RecordingEngine) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def refuse(*_: object) -> None:
        raise StorageError("the database is unavailable")

    async with replicas(database, length=600.0) as (one, two):
        await one.active()
        monkeypatch.setattr(RecordingEngine, "start", begin)
        monkeypatch.setattr(two.leases, "release", refuse)
        await one.election.leave()
        async with asyncio.timeout(TIMEOUT):
            await begun.wait()
            await two.election.leave()


async def test_a_process_that_stops_while_its_engine_ends_waits_for_that(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engine has open would stay open."""
    ends, ended = asyncio.Event(), asyncio.Event()

    async def close(_: RecordingEngine, *, write: bool = True) -> None:
        del write
        ends.set()
        await asyncio.sleep(0.1)
        ended.set()

    monkeypatch.setattr(RecordingEngine, "close", close)
    async with replicas(database, length=600.0) as (one, _):
        engine = await one.active()
        engine.term.end()
        await ends.wait()
        await one.election.leave()
        assert ended.is_set()


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
        LeaseRepository(database), EngineClient(bus), make, {}, "new", 0.1, handover=None
    )
    await election.start(supervisor)
    assert election.is_active()
    assert made[0].term.lasts
    await election.leave()
    await supervisor.close()
