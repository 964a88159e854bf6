"""What shows, without a submission, that an account takes jobs again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from engine.worlds import World
from jobs.samples import job

from proxy.cloud.client import CloudClient
from proxy.engine.account_trial import AccountTrial
from proxy.engine.accounts import Account, Reason, Slots
from proxy.simulator import HttpFault, Simulator


@pytest.fixture
async def account(simulator: Simulator) -> AsyncIterator[Account]:
    simulator.switches.billing_for_keys = True
    client = CloudClient(simulator.base_url, simulator.key)
    await client.start()
    yield Account("one", client, simulator.key, slots=Slots(1))
    await client.close()


def trial(account: Account, reason: Reason) -> AccountTrial:
    account.health.failed(reason, 0.0)
    world: Any = World(one=account)
    return AccountTrial(account, world.scheduler)


async def test_a_key_that_works_again(simulator: Simulator, account: Account) -> None:
    simulator.faults.add(HttpFault("GET /api/user", status=401, body="{}"))
    tried = trial(account, "dead_key")
    assert [await tried.works(), await tried.works()] == [False, True]


async def test_a_cloud_that_answers_again_whatever_it_says_of_the_key(
    simulator: Simulator, account: Account
) -> None:
    simulator.faults.add(HttpFault("GET /api/user", status=401, body="{}"))
    assert await trial(account, "unreachable").works()


async def test_a_cloud_that_jobs_wait_for_is_tried_soon(account: Account) -> None:
    world: Any = World(one=account)
    tried = AccountTrial(account, world.scheduler)
    account.health.failed("unreachable", 0.0)
    assert not tried.is_awaited()
    world.scheduler.enqueue(job())
    assert tried.is_awaited()


async def test_a_cloud_that_others_have_reached_is_tried_soon(account: Account) -> None:
    tried = trial(account, "unreachable")
    await account.cloud.check_key()
    assert tried.is_awaited()


async def test_a_key_that_a_person_mends_is_not_tried_sooner(account: Account) -> None:
    tried = trial(account, "dead_key")
    await account.cloud.check_key()
    assert not tried.is_awaited()


async def test_credits_that_are_more_than_they_were(simulator: Simulator, account: Account) -> None:
    tried, seen = trial(account, "no_credits"), []
    for change in (0, 0, -1, 0, 500):
        simulator.account.balance_cents += change
        seen.append(await tried.works())
    assert seen == [False, False, False, False, True]


async def test_credits_that_nobody_tells_show_nothing(
    simulator: Simulator, account: Account
) -> None:
    simulator.switches.billing_for_keys = False
    tried = trial(account, "no_credits")
    assert [await tried.works() for _ in range(3)] == [False] * 3
