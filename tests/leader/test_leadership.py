"""Which of several processes leads: candidates over one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from leader.processes import TIMEOUT, Candidate, candidate, standing

from proxy.leader.handover import Handover
from proxy.metrics import Metrics
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import Database, FencedError, StorageError
from proxy.storage.leases import ENGINE, LeaseRepository, check_fence


@asynccontextmanager
async def two(database: Database, length: float = 0.5) -> AsyncIterator[list[Candidate]]:
    supervisor = Supervisor()
    both = [
        candidate(
            database,
            supervisor,
            name,
            length,
            Handover(LeaseRepository(database), {}, name, Metrics()),
        )
        for name in ("one", "two")
    ]
    async with standing(supervisor, *both):
        yield both
    await supervisor.close()


async def test_one_of_two_leads_and_the_other_follows_at_once_when_it_leaves(
    database: Database,
) -> None:
    async with two(database, length=600.0) as (one, other):
        first = await one.leads()
        assert not other.is_leader
        await one.leave()
        second = await other.leads()
        assert second.lease.epoch > first.lease.epoch
        assert not first.lasts


async def test_who_stands_by_knows_where_the_leader_is(database: Database) -> None:
    async with two(database, length=600.0) as (one, other):
        first = await one.leads()
        known = await other.leadership.known(TIMEOUT)
        assert known is not None
        assert (known.address, known.epoch) == ("at one", first.lease.epoch)
        later = asyncio.create_task(other.leadership.known(TIMEOUT, after=known.epoch))
        superseded = asyncio.create_task(other.leadership.superseded(known.epoch))
        await one.leave()
        found = await later
        assert found is not None
        assert found.address == "at two"
        await superseded


async def test_nobody_is_known_where_nobody_leads(database: Database) -> None:
    supervisor = Supervisor()
    one = candidate(
        database, supervisor, "one", 5.0, Handover(LeaseRepository(database), {}, "one", Metrics())
    )
    assert await one.leadership.known(0.0) is None


async def test_a_lease_that_is_reserved_is_that_of_no_leader(database: Database) -> None:
    async with two(database, length=600.0) as (one, other):
        first = await one.leads()
        first.successor = "three"
        await one.leave()
        leases = LeaseRepository(database)
        reserved = await leases.holder(ENGINE)
        assert reserved is not None
        assert (reserved.holder, reserved.address) == ("three", "")
        assert await other.leadership.known(0.5, after=0) is None or not other.is_leader


async def test_the_lease_is_renewed_for_as_long_as_its_holder_lives(database: Database) -> None:
    async with two(database, length=1.0) as (one, other):
        first = await one.leads()
        until = first.until
        async with asyncio.timeout(TIMEOUT):
            while first.until < until + 2.0:  # noqa: ASYNC110 (a lease is long)
                await asyncio.sleep(0.05)
        assert first.lasts
        assert not other.is_leader


async def test_a_leader_that_cannot_renew_stops_by_its_own_clock_and_another_follows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(database, length=2.0) as (one, other):
        first = await one.leads()

        async def refuse(*_: object, **__: object) -> bool:
            raise StorageError("the database is unavailable")

        monkeypatch.setattr(one.leadership.leases, "renew", refuse)
        monkeypatch.setattr(one.leadership.leases, "acquire", refuse)
        second = await other.leads()
        with pytest.raises(FencedError):
            first.check()
        second.check()


async def test_a_write_of_a_term_that_is_over_is_refused(database: Database) -> None:
    async with two(database) as (one, _):
        first = await one.leads()
        await LeaseRepository(database).acquire(ENGINE, "three", 0.1, alone=True)
        with pytest.raises(FencedError):
            await database.write(lambda connection: check_fence(connection, first.fence))
        async with asyncio.timeout(TIMEOUT):
            await first.over.wait()
        assert not first.lasts


async def test_a_term_that_is_over_is_not_renewed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(database) as (one, _):
        first = await one.leads()
        renew = one.leadership.leases.renew

        async def renewed(*arguments: Any, **named: Any) -> bool:
            first.end()  # a write was refused meanwhile
            return await renew(*arguments, **named)

        monkeypatch.setattr(one.leadership.leases, "renew", renewed)
        async with asyncio.timeout(TIMEOUT):
            await first.over.wait()
            while one.leadership.term is first:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert not first.lasts


async def test_where_nobody_else_can_be_the_lease_of_a_process_that_died_is_taken_at_once(
    database: Database,
) -> None:
    await LeaseRepository(database).acquire(ENGINE, "died", 600.0)
    supervisor = Supervisor()
    alone = candidate(database, supervisor, "new", 0.1)
    async with standing(supervisor, alone):
        term = await alone.leads()
        await asyncio.sleep(0.2)
        assert term.lasts


async def test_who_is_alone_fails_with_the_database(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = candidate(database, Supervisor(), "new", 0.1)

    async def refuse(*_: object, **__: object) -> bool:
        raise StorageError("the database is unavailable")

    monkeypatch.setattr(alone.leadership.leases, "acquire", refuse)
    with pytest.raises(StorageError):
        await alone.leadership.elected()
