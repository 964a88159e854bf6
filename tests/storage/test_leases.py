"""Leases: one holder, a higher epoch for each, and the clock of the database."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import select

from proxy.storage.database import Database
from proxy.storage.leases import ENGINE, LeaseRepository, database_now


@pytest.fixture
def leases(database: Database) -> LeaseRepository:
    return LeaseRepository(database)


async def test_a_lease_has_one_holder(leases: LeaseRepository) -> None:
    mine = await leases.acquire(ENGINE, "one", 60)
    assert mine is not None
    assert await leases.acquire(ENGINE, "two", 60) is None
    assert await leases.acquire("other", "two", 60) is not None
    assert await leases.holder(ENGINE) == mine


async def test_of_many_at_once_one_gets_it(leases: LeaseRepository) -> None:
    found = await asyncio.gather(*(leases.acquire(ENGINE, str(n), 60) for n in range(10)))
    assert sum(lease is not None for lease in found) == 1


async def test_a_lease_that_has_run_out_is_anybodys(leases: LeaseRepository) -> None:
    mine = await leases.acquire(ENGINE, "one", 0)
    assert mine is not None
    assert await leases.holder(ENGINE) is None
    theirs = await leases.acquire(ENGINE, "two", 60)
    assert theirs is not None
    assert theirs.epoch > mine.epoch
    assert not await leases.renew(mine, 60)


async def test_a_renewed_lease_stays(leases: LeaseRepository) -> None:
    mine = await leases.acquire(ENGINE, "one", 0)
    assert mine is not None
    assert await leases.renew(mine, 60)
    assert await leases.acquire(ENGINE, "two", 60) is None


async def test_a_released_lease_is_free_and_its_epoch_over(leases: LeaseRepository) -> None:
    mine = await leases.acquire(ENGINE, "one", 60)
    assert mine is not None
    await leases.release(mine)
    theirs = await leases.acquire(ENGINE, "two", 60)
    assert theirs is not None
    await leases.release(mine)
    assert await leases.holder(ENGINE) == theirs


async def test_a_reserved_lease_is_for_its_next_holder_alone(leases: LeaseRepository) -> None:
    mine = await leases.acquire(ENGINE, "one", 60)
    assert mine is not None
    await leases.reserve(mine, "two", 60)
    assert not await leases.renew(mine, 60)
    assert await leases.acquire(ENGINE, "one", 60) is None
    assert await leases.acquire(ENGINE, "three", 60) is None
    theirs = await leases.acquire(ENGINE, "two", 60)
    assert theirs is not None
    assert theirs.epoch > mine.epoch
    await leases.reserve(mine, "three", 60)
    assert await leases.holder(ENGINE) == theirs


async def test_a_reserved_lease_that_nobody_takes_is_anybodys(leases: LeaseRepository) -> None:
    mine = await leases.acquire(ENGINE, "one", 60)
    assert mine is not None
    await leases.reserve(mine, "two", 0)
    assert await leases.acquire(ENGINE, "three", 60) is not None


async def test_who_is_alone_takes_what_an_earlier_process_has_left(
    leases: LeaseRepository,
) -> None:
    before = await leases.acquire(ENGINE, "one", 60)
    after = await leases.acquire(ENGINE, "two", 60, alone=True)
    assert before is not None
    assert after is not None
    assert after.epoch == before.epoch + 1


async def test_the_clock_counts_milliseconds_since_1970(database: Database) -> None:
    now = await database.read(
        lambda connection: connection.execute(select(database_now())).scalar()
    )
    assert now is not None
    assert abs(now - time.time() * 1000) < 60_000
