"""Rows of jobs, in each database."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from storage.samples import PAYLOAD, job

from proxy.storage.database import Database
from proxy.storage.job_tables import JobKey
from proxy.storage.jobs import JobRepository


@pytest.fixture
def jobs(database: Database) -> JobRepository:
    return JobRepository(database)


async def test_a_job_comes_back_as_it_was_taken_in(jobs: JobRepository) -> None:
    one = job(
        number=2**80,
        client_id="\ud800 c",
        workflow_id="w",
        account="main",
        cloud_id="c1",
        started_at=5,
        outputs_to_execute=("9", "10"),
        watched=False,
        cancel_requested=True,
        interrupted=True,
        charge=1.5,
    )
    order = (await jobs.insert(one, PAYLOAD)).order
    assert await jobs.get("anna", "a") == replace(one, order=order)
    assert await jobs.payloads.get(order) == PAYLOAD
    assert await jobs.payloads.get_many([order, 77]) == {order: PAYLOAD}


@pytest.mark.parametrize("number", [0, -1, 1.0, 0.5, -(2**90)])
async def test_a_number_keeps_its_kind(jobs: JobRepository, number: float) -> None:
    await jobs.insert(job(number=number), PAYLOAD)
    found = await jobs.get("anna", "a")
    assert found is not None
    assert (type(found.number), found.number) == (type(number), number)


async def test_orders_grow_and_are_never_used_again(jobs: JobRepository) -> None:
    first = (await jobs.insert(job("a"), PAYLOAD)).order
    second = (await jobs.insert(job("b"), PAYLOAD)).order
    await jobs.discard([second])
    third = (await jobs.insert(job("c"), PAYLOAD)).order
    assert first < second < third
    assert [row.prompt_id for row in await jobs.live()] == ["a", "c"]


def test_a_job_tells_its_key() -> None:
    assert job().key == JobKey("anna", "a")
