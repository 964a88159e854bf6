"""What accounts tell of their plans: used where it is told, and missed by nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from stack import Client, running_proxy

from proxy.api.keys import FILES
from proxy.simulator import HttpFault, Simulator

ROUTES = ("GET /api/features", "GET /api/billing/status", "GET /api/billing/balance")


async def account(client: Client, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The account as the dashboard shows it, as soon as it is so."""
    async with client.session.get(client.url / "proxy/api/events") as events:
        while True:
            _, state = await client.get("proxy/api/state")
            (shown,) = state["accounts"]
            if reached(shown):
                return dict(shown)
            await events.content.readuntil(b"\n\n")


async def test_the_number_of_slots_is_right_without_a_job(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.set_plan("team")
    simulator.switches.update({"announced_slots": True, "billing_for_keys": True})
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        shown = await account(client, lambda known: known["slots"] == 25)
        assert shown["plan"] == "Team plan, 25 jobs at once, balance 12.34 USD"
        _, metrics = await client.get("metrics")
    assert 'account_balance{account="default",currency="USD"} 12.34' in metrics
    assert 'account_plan{account="default",plan="TEAM"} 1.0' in metrics
    assert not simulator.jobs


async def test_the_tier_is_enough(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.set_plan("pro")
    simulator.switches.billing_for_keys = True
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        await account(client, lambda known: known["slots"] == 5)
        _, metrics = await client.get("metrics")
    assert 'account_run_limit_seconds{account="default"} 3600.0' in metrics


async def test_a_setting_wins(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.set_plan("pro")
    simulator.switches.update({"announced_slots": True, "billing_for_keys": True})
    async with running_proxy(simulator, tmp_path, slots=2) as proxy:
        shown = await account(Client(session, proxy.url), lambda known: bool(known["plan"]))
        assert shown["slots"] == 2


async def test_what_the_cloud_refuses_in_practice_teaches(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    simulator.set_plan("pro")
    simulator.switches.billing_for_keys = True
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        await account(client, lambda known: known["slots"] == 5)
        simulator.set_plan("standard")
        jobs = [await client.submit(graphs.waiting()) for _ in range(3)]
        await account(client, lambda known: known["slots"] == 1)
        await client.post("api/jobs/cancel", {"job_ids": jobs})


def fault(**fields: Any) -> Callable[[Simulator], None]:
    def add(simulator: Simulator) -> None:
        for route in ROUTES:
            simulator.faults.add(HttpFault(route, **fields), times=None)

    return add


SLOW = fault(delay=30.0)


@pytest.mark.parametrize(
    "trouble",
    [
        fault(status=401, body='{"code": "UNAUTHORIZED", "message": "no"}'),
        fault(status=403),
        fault(status=404),
        fault(status=429, headers={"Retry-After": "60"}),
        fault(status=500),
        fault(status=503),
        fault(status=200, body="<html>sign in</html>"),
        fault(status=200, body="[]"),
        fault(status=302, headers={"Location": "https://comfy.org"}),
        fault(reset=True),
        SLOW,
    ],
    ids=["401", "403", "404", "429", "500", "503", "html", "list", "redirect", "reset", "slow"],
)
async def test_no_answer_of_these_routes_changes_anything_else(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    trouble: Callable[[Simulator], None],
) -> None:
    trouble(simulator)
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        cloud = proxy.services[FILES].library.clouds["default"]
        if trouble is not SLOW:
            for _ in range(6):
                assert (await cloud.billing.plan()).sentence() == ""
        entry = await client.run(graphs.plain())
        assert entry["status"]["status_str"] == "success"
        (shown,) = (await client.get("proxy/api/state"))[1]["accounts"]
        assert (shown["reason"], shown["plan"]) == (None, "")
