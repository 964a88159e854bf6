"""Facts that are replaced, surprises that are counted, and a bound on both."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.storage import observations as module
from proxy.storage.database import Database
from proxy.storage.observations import FACT, Observation, ObservationRepository

EVENT = Observation("cloud", "event", "job_exploded: type", b'{"a": 1}', 1, 1000, 1000)


@pytest.fixture
def repository(database: Database) -> ObservationRepository:
    return ObservationRepository(database)


async def test_a_fact_is_replaced(repository: ObservationRepository) -> None:
    fact = Observation("cloud", FACT, "prompt_id", b'"minted"', 1, 1000, 1000)
    await repository.add([fact])
    await repository.add([replace(fact, value=b'"honoured"', last_at=2000)])
    assert await repository.load() == [replace(fact, value=b'"honoured"', last_at=2000)]


async def test_replicas_count_the_same_surprise_together_and_keep_the_first_example(
    repository: ObservationRepository,
) -> None:
    await repository.add([EVENT])
    later = replace(EVENT, value=b'{"a": 2}', count=3, last_at=2000)
    await asyncio.gather(*(repository.add([later]) for _ in range(4)))
    assert await repository.load() == [replace(EVENT, count=13, last_at=2000)]


async def test_accounts_are_told_apart(repository: ObservationRepository) -> None:
    await repository.add([EVENT, replace(EVENT, identity="cloud b")])
    assert [row.identity for row in await repository.load(["cloud b"])] == ["cloud b"]


async def test_an_account_fills_no_disk(
    repository: ObservationRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    await repository.add([replace(EVENT, name=str(number)) for number in range(2)])
    await repository.add([replace(EVENT, name=str(number), last_at=2000) for number in range(9)])
    rows = await repository.load()
    assert [(row.name, row.count) for row in rows] == [("0", 2), ("1", 2), ("2", 1)]
