"""What jobs have cost, beside what the cloud has booked, as admins see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from process import TIMEOUT
from stack import Client, running_proxy

from proxy.api.keys import MEMBERS
from proxy.members.member import Member
from proxy.simulator import Simulator
from proxy.storage.usage import day_of

#: As often as a test may wait for.
OFTEN = {"billing_delay": 0.02, "billing_interval": 0.1}


async def account(client: Client, **query: str) -> dict[str, Any]:
    """The only account of the report."""
    status, answer = await client.get("proxy/api/billing", **query)
    assert status == 200, answer
    (found,) = answer["accounts"]
    return dict(found)


async def until(client: Client, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The account as soon as it is so."""
    async with asyncio.timeout(TIMEOUT):
        while True:
            found = await account(client)
            if reached(found):
                return found
            await asyncio.sleep(0.02)


async def test_a_job_is_in_the_ledger_and_booked(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.switches.billing_for_keys = True
    async with running_proxy(simulator, tmp_path, policy=OFTEN) as proxy:
        client = Client(session, proxy.url)
        await client.run(graphs.plain())
        found = await until(client, lambda found: bool(found["booked"] and found["ledger"]))
        today = day_of(time.time())
        assert (found["name"], found["access"]) == ("default", "allowed")
        assert found["balance"]["text"] == "12.34 USD"
        assert found["balance"]["credits"] == pytest.approx(12.34 * 211)
        (day,) = (day for day in found["days"] if day["day"] >= today)
        assert day["booked"] == found["booked"] > 0
        assert found["ledger"] > 0
        assert found["difference"] == pytest.approx(found["booked"] - found["ledger"])
        _, metrics = await client.get("metrics")
        assert 'account_credits_left{account="default",source="reported"}' in metrics


async def test_jobs_since_the_last_reading_make_no_difference(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.switches.billing_for_keys = True
    policy = {"billing_delay": 0.02, "billing_interval": 3600.0}
    async with running_proxy(simulator, tmp_path, policy=policy) as proxy:
        client = Client(session, proxy.url)
        await until(client, lambda found: found["read_to"] is not None)
        await client.run(graphs.plain())
        _, used = await client.get("proxy/api/usage", rows="costs")
        assert sum(row["credits"] for row in used["costs"]) > 0
        found = await account(client)
        assert (found["ledger"], found["booked"], found["difference"]) == (0, 0, 0)


async def test_a_balance_that_was_entered_gets_less_with_each_job(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path, policy=OFTEN) as proxy:
        client = Client(session, proxy.url)
        assert (await account(client))["balance"]["source"] == "unknown"
        url = client.url / "proxy/api/billing/default"
        async with client.session.patch(url, json={"credits": 500}) as answer:
            assert answer.status == 204
        balance = (await account(client))["balance"]
        assert (balance["source"], balance["credits"]) == ("entered", 500.0)
        await client.run(graphs.plain())
        found = await until(client, lambda found: found["balance"]["credits"] != 500.0)
        assert 0 < 500.0 - found["balance"]["credits"] < 100
        async with client.session.patch(url, json={"credits": None}) as answer:
            assert answer.status == 204
        assert (await account(client))["balance"]["source"] == "unknown"
        _, audit = await client.get("proxy/api/audit", action="balance_entered")
        assert [entry["credits"] for entry in audit["entries"]] == [None, 500.0]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("default", {"credits": -1}, 400),
        ("default", {"credits": "500"}, 400),
        ("default", {"credits": 1e12}, 400),
        ("default", {}, 400),
        ("default", {"credits": 1, "more": 1}, 400),
        ("default", [], 400),
        ("other", {"credits": 1}, 404),
    ],
)
async def test_a_wrong_balance_is_refused(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    path: str,
    body: Any,
    status: int,
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        url = proxy.url / "proxy/api/billing" / path
        async with session.patch(url, json=body) as answer:
            assert answer.status == status
        assert (await account(Client(session, proxy.url)))["balance"]["source"] == "unknown"


@pytest.mark.parametrize(
    ("query", "type_"),
    [
        ({"from": "soon"}, "invalid_from"),
        ({"to": "1"}, "invalid_to"),
        ({"from": "2024-01-01", "to": "2026-01-01"}, "invalid_from"),
    ],
)
async def test_a_wrong_day_is_refused(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    query: dict[str, str],
    type_: str,
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        status, answer = await Client(session, proxy.url).get("proxy/api/billing", **query)
    assert (status, answer["error"]["type"]) == (400, type_)


async def test_members_see_nothing_of_it(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        await proxy.services[MEMBERS].add(Member("root", role="admin"))
        await proxy.services[MEMBERS].add(Member("anna"))
        token, _ = await proxy.services[MEMBERS].new_token("anna")
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(proxy.url / "proxy/api/billing", headers=headers) as answer:
            assert answer.status == 403
        url = proxy.url / "proxy/api/billing/default"
        async with session.patch(url, json={"credits": 1}, headers=headers) as answer:
            assert answer.status == 403
