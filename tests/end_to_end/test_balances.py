"""What is left on an account, as admins see it."""

from __future__ import annotations

import asyncio
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


async def account(client: Client) -> dict[str, Any]:
    """The only account of the report."""
    status, answer = await client.get("proxy/api/billing")
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


async def test_the_balance_is_what_the_cloud_reports(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.switches.billing_for_keys = True
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        found = await until(client, lambda found: found["balance"]["source"] == "reported")
        assert found["name"] == "default"
        assert found["balance"]["text"] == "12.34 USD"
        assert found["balance"]["credits"] == pytest.approx(12.34 * 211)
        _, metrics = await client.get("metrics")
        assert 'account_credits_left{account="default",source="reported"} 2603.74' in metrics


async def test_a_balance_that_was_entered_gets_less_with_each_job(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        assert (await account(client))["balance"]["source"] == "unknown"
        url = client.url / "proxy/api/billing/default"
        async with client.session.patch(url, json={"credits": 500}) as answer:
            assert answer.status == 204
        balance = (await account(client))["balance"]
        assert (balance["source"], balance["credits"]) == ("entered", 500.0)
        _, metrics = await client.get("metrics")
        assert 'account_credits_left{account="default",source="entered"} 500.0' in metrics
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
