"""Jobs from before a start: found where they are, sent again, or ended."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import aiohttp
import gated
import graphs
import pytest
from backend import open_database
from pydantic import SecretStr
from stack import Client, running_proxy
from waiting import ids, until

from proxy.jobs.models import Job, JobState
from proxy.jobs.recorder import payload_of, stored_of
from proxy.jobs.submission import JobRequest, new_job
from proxy.settings import AccountSettings
from proxy.simulator import HttpFault, Simulator
from proxy.storage.jobs import JobRepository


def account(name: str, simulator: Simulator) -> AccountSettings:
    return AccountSettings(
        name=name, base_url=simulator.base_url, key=SecretStr(simulator.key), slots=1
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
        assert await ids(client) == [left.prompt_id]
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
