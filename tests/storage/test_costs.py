"""What jobs have cost, added up in the transaction of their ends."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from msgspec.structs import replace
from storage.samples import PAYLOAD, ended, job

from proxy.storage.costs import CostRow, add_costs
from proxy.storage.database import Database
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.usage import UsageRepository

GPU = CostRow("2026-01-01", "anna", "main", "", "estimated", amount=270_001, seconds=1.0)
NODE = CostRow("2026-01-01", "anna", "main", "Flux", "reported", amount=10**12, nodes=1)


async def test_equal_rows_are_added_up(database: Database) -> None:
    add = partial(add_costs, rows=[NODE, GPU, GPU])
    await asyncio.gather(*(database.write(add) for _ in range(5)))
    assert await UsageRepository(database).costs("2026-01-01", "2026-01-01") == [
        replace(GPU, amount=2_700_010, seconds=10.0),
        replace(NODE, amount=5 * 10**12, nodes=5),
    ]


async def test_costs_are_read_by_day_and_member(database: Database) -> None:
    rows = [
        replace(GPU, day=day, member=member)
        for day in ("2026-01-01", "2026-01-02", "2026-02-01")
        for member in ("anna", "ben")
    ]
    await database.write(partial(add_costs, rows=rows[::-1]))
    usage = UsageRepository(database)
    assert await usage.costs("2026-01-02", "2026-02-01") == rows[2:]
    assert await usage.costs("2026-01-01", "2026-01-31", "ben") == [rows[1], rows[3]]


async def test_a_job_is_charged_once_with_its_end(database: Database) -> None:
    jobs, usage = JobRepository(database), UsageRepository(database)
    entry = ended(await jobs.insert(job(), PAYLOAD))
    for _ in range(2):
        await jobs.finish(entry, EngineWrite(costs=[GPU]), keep=10)
    assert await usage.costs("2026-01-01", "2026-01-01") == [GPU]


@pytest.mark.parametrize("amount", [0, 2**60])
async def test_amounts_are_exact(database: Database, amount: int) -> None:
    await database.write(partial(add_costs, rows=[replace(GPU, amount=amount)]))
    (row,) = await UsageRepository(database).costs("2026-01-01", "2026-01-01")
    assert row.amount == amount
