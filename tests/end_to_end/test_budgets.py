"""Budgets in credits over a running proxy: what is refused, and what clients see of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from stack import Client, Proxy, running_proxy
from team import limited_member
from waiting import until

from proxy.api.keys import MEMBERS
from proxy.jobs import checks
from proxy.members.member import Limits, Member
from proxy.simulator import Simulator, Switches
from proxy.simulator.nodes import NodeClass
from proxy.simulator.nodes.node_class import Context, Output

#: A graph that has never run is expected to run 10 s, each for 0.27 credits.
UNKNOWN = 2.7


async def budgets(client: Client) -> list[dict[str, Any]]:
    return list((await client.get("proxy/api/state"))[1]["budgets"])


async def test_a_job_under_way_counts_with_its_estimate_until_it_has_ended(tmp_path: Path) -> None:
    opened = asyncio.Event()
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, tmp_path / "data") as proxy,
        limited_member(proxy, credits_per_day=4, soft_credits_per_month=0.000001) as client,
    ):
        first = await gated.running_one(client)
        reserved = [budget["reserved"] for budget in await budgets(client)]
        assert reserved == [UNKNOWN, UNKNOWN]
        status, refused = await client.post("prompt", {"prompt": gated.GRAPH})
        assert status == 429
        error = refused["error"]
        assert (error["type"], error["details"]) == ("limit_reached", "credits_per_day")
        assert "expected to cost about 2.7 credits" in error["message"]
        assert "1.3 credits are left" in error["message"]
        more = error["extra_info"]
        assert (more["value"], more["left"], more["estimate"]) == (4, 1.3, UNKNOWN)
        assert more["ends_at"].endswith("T00:00:00+00:00")
        assert 0 < more["retry_after"] <= 86_400
        assert refused["node_errors"] == {}
        (day,) = (await client.get("proxy/api/usage"))[1]["usage"]
        assert day["submitted"] == 1
        opened.set()
        await client.ended(first)
        month, day = await budgets(client)
        assert (month["name"], month["hard"], month["reached"]) == (
            "soft_credits_per_month",
            False,
            True,
        )
        assert (day["reserved"], day["reached"]) == (0, False)
        assert 0 < day["spent"] == month["spent"] < UNKNOWN
        await client.run(graphs.plain(1))


async def test_earlier_runs_say_what_a_job_is_expected_to_cost(tmp_path: Path) -> None:
    opened = asyncio.Event()
    switches = Switches(cache_nodes=False)
    async with Simulator(switches=switches, extra_nodes=[gated.gate(opened)]) as simulator:
        opened.set()
        async with (
            running_proxy(simulator, tmp_path / "data") as proxy,
            limited_member(proxy, credits_per_day=UNKNOWN) as client,
        ):
            await client.run(gated.GRAPH)
            headers = dict(client.session.headers)
        opened.clear()
        async with (
            running_proxy(simulator, tmp_path / "data") as proxy,
            aiohttp.ClientSession(headers=headers) as session,
        ):
            client = Client(session, proxy.url)
            jobs = [await client.submit(gated.GRAPH) for _ in range(3)]
            (day,) = await budgets(client)
            assert 0 < day["reserved"] < UNKNOWN
            assert (await client.post("prompt", {"prompt": graphs.sampled()}))[0] == 429
            opened.set()
            await asyncio.gather(*map(client.ended, jobs))


def partner(name: str, **info: Any) -> NodeClass:
    """A partner node that does not report its price."""

    async def run(_inputs: dict[str, Any], _context: Context) -> Output:
        return Output(ui={"text": ["made"]})

    required = {"number": ("INT", {"default": 1, "min": 1, "max": 9})}
    return NodeClass(name, run, required, output_node=True, info={"api_node": True, **info})


#: A price of 21.1 credits for each.
BADGE = {
    "engine": "jsonata",
    "depends_on": {"widgets": [{"name": "number", "type": "INT"}]},
    "expr": '{"type": "usd", "usd": 0.1 * widgets.number}',
}


async def test_the_price_of_a_class_is_an_estimate_and_without_it_the_cost_is_unknown(
    tmp_path: Path,
) -> None:
    nodes = [partner("Priced", price_badge=BADGE), partner("Unpriced")]
    graph = {
        "1": {"class_type": "Priced", "inputs": {"number": 2}},
        "2": {"class_type": "Unpriced", "inputs": {"number": 1}},
    }
    async with (
        Simulator(extra_nodes=nodes) as simulator,
        running_proxy(simulator, tmp_path / "data") as proxy,
        limited_member(proxy, credits_per_day=UNKNOWN + 42) as client,
    ):
        status, refused = await client.post("prompt", {"prompt": graph})
        assert (status, refused["error"]["extra_info"]["estimate"]) == (429, 44.9)
        await proxy.services[MEMBERS].change("alice", limits={"credits_per_day": 100})
        entry = await client.run(graph)
        _, job = await client.get(f"proxy/api/jobs/{entry['prompt'][1]}")
        assert job["cost"]["source"] == "unknown"
        parts = {part["class"]: part for part in job["cost"]["parts"]}
        assert (parts["Priced"]["credits"], parts["Priced"]["source"]) == (42.2, "estimated")
        assert (parts["Unpriced"]["credits"], parts["Unpriced"]["source"]) == (None, "unknown")
        (day,) = (await client.get("proxy/api/usage"))[1]["usage"]
        assert day["unknown_costs"] == 1
        assert day["credits_estimated"] == pytest.approx(job["cost"]["credits"])


async def test_a_partner_node_that_the_cloud_leaves_out_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_MAX_NODES", 0)  # validated by the cloud alone
    graph = {
        "1": {"class_type": "Priced", "inputs": {"number": 2}},
        "2": {"class_type": "Priced", "inputs": {"number": 10}},
    }
    async with (
        Simulator(extra_nodes=[partner("Priced", price_badge=BADGE)]) as simulator,
        running_proxy(simulator, tmp_path / "data") as proxy,
        limited_member(proxy) as client,
    ):
        entry = await client.run(graph)
        assert entry["prompt"][4] == ["1"]
        _, job = await client.get(f"proxy/api/jobs/{entry['prompt'][1]}")
        parts = [part for part in job["cost"]["parts"] if part["class"] == "Priced"]
        assert [(part["nodes"], part["credits"]) for part in parts] == [(1, 42.2)]


async def test_members_see_their_own_budgets_and_admins_all(proxy: Proxy) -> None:
    await proxy.services[MEMBERS].add(Member("bob", limits=Limits(credits_per_month=7)))
    async with limited_member(proxy, credits_per_day=5) as client:
        assert [(budget["member"], budget["limit"]) for budget in await budgets(client)] == [
            ("alice", 5)
        ]
        await proxy.services[MEMBERS].change("alice", role="admin")
        assert {(budget["member"], budget["limit"]) for budget in await budgets(client)} == {
            ("alice", 5),
            ("bob", 7),
        }


async def test_the_default_budget_holds_for_a_person_without_members(
    tmp_path: Path, simulator: Simulator
) -> None:
    async with (
        running_proxy(simulator, tmp_path / "data", credits_per_month=0) as proxy,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, proxy.url)
        status, refused = await client.post("prompt", {"prompt": graphs.plain(1)})
        assert (status, refused["error"]["details"]) == (429, "credits_per_month")
        assert await client.get("history") == (200, {})


async def test_what_comfyui_answers_has_nothing_new(proxy: Proxy) -> None:
    async with limited_member(proxy, credits_per_day=1000) as client:
        status, answer = await client.post("prompt", {"prompt": graphs.plain(1)})
        assert status == 200
        assert answer.keys() == {"prompt_id", "number", "node_errors"}
        await client.ended(answer["prompt_id"])
        for path in (f"history/{answer['prompt_id']}", "history", "queue", "api/jobs"):
            async with client.session.get(client.url / path) as found:
                text = await found.text()
            assert "credits" not in text
            assert "cost" not in text
            assert "estimate" not in text
        _, history = await client.get("history")
        (entry,) = history.values()
        assert entry.keys() == {"prompt", "outputs", "status", "meta"}


@pytest.mark.parametrize("value", [-1, "many"])
async def test_an_amount_that_is_none_is_refused(proxy: Proxy, value: object) -> None:
    async with limited_member(proxy) as client:
        await proxy.services[MEMBERS].change("alice", role="admin")
        body = {"name": "bob", "limits": {"credits_per_day": value}}
        status, answer = await client.post("proxy/api/members", body)
        assert status == 400
        assert "credits_per_day" in answer["error"]["message"]


#: Credits of a second, and seconds of a job that costs 4.4 credits.
RATE, LONG = 5.0, 0.88


async def is_at_rest(client: Client) -> bool:
    """Whether no job of the member goes on, and those that wait do so for the budget."""
    state = (await client.get("proxy/api/state"))[1]
    reasons = {job["reason"] for job in state["waiting"]}
    return not state["running"] and reasons <= {"the member's budget does not allow it"}


@pytest.mark.parametrize(("limit", "slots"), [(12.0, 1), (12.0, 5), (1.0, 1), (1.0, 5)])
async def test_a_hard_budget_is_passed_by_one_job_at_most(
    simulator: Simulator, tmp_path: Path, limit: float, slots: int
) -> None:
    if slots > 1:
        simulator.set_plan("pro")
    async with (
        running_proxy(simulator, tmp_path / "data", credits_per_second=RATE, slots=slots) as proxy,
        limited_member(proxy) as client,
    ):
        await client.run(graphs.waiting(0.0))  # cheap: this is what such graphs cost, it seems
        await proxy.services[MEMBERS].change("alice", limits={"credits_per_day": limit})
        cheap = (await budgets(client))[0]["spent"]

        async def is_accepted() -> bool:
            return (await client.post("prompt", {"prompt": graphs.waiting(LONG)}))[0] == 200

        await until(is_accepted)  # what the first one took is stored after some time
        for _ in range(94):
            await is_accepted()
        for _ in range(20):  # a job may be about to be tried again
            await until(lambda: is_at_rest(client))
        (day,) = await budgets(client)
        assert cheap < day["spent"]
        assert day["spent"] - limit < 1.5 * LONG * RATE


async def waiting_for_budget(proxy: Proxy, client: Client) -> str:
    """Spend the budget of Alice; a job that waits for it."""
    await client.run(graphs.waiting(0.0))
    await proxy.services[MEMBERS].change("alice", limits={"credits_per_day": 4.0})
    await until_accepted(client)
    await until_accepted(client)
    await until(lambda: is_at_rest(client))
    (waits,) = (await client.get("proxy/api/state"))[1]["waiting"]
    return str(waits["id"])


async def until_accepted(client: Client) -> None:
    """Submit a job once the budget allows it."""

    async def is_accepted() -> bool:
        return (await client.post("prompt", {"prompt": graphs.waiting(3 * LONG)}))[0] == 200

    await until(is_accepted)


async def test_a_job_that_waits_for_a_budget_says_so_and_goes_when_that_is_raised(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with (
        running_proxy(simulator, tmp_path / "data", credits_per_second=RATE) as proxy,
        limited_member(proxy) as client,
    ):
        waits = await waiting_for_budget(proxy, client)

        async def is_explained() -> bool:
            shown = (await client.get(f"api/jobs/{waits}"))[1]
            return shown.get("queue_reason") == "budget" and "budget" in shown["queue_message"]

        await until(is_explained)
        await proxy.services[MEMBERS].change("alice", limits={"credits_per_day": 100.0})
        assert (await client.ended(waits))["status"]["status_str"] == "success"


async def test_jobs_wait_in_the_queue_for_what_one_under_way_may_cost(tmp_path: Path) -> None:
    opened = asyncio.Event()
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, tmp_path / "data", slots=4, client_parallelism="many") as proxy,
        limited_member(proxy, credits_per_day=100) as client,
    ):
        jobs = [await gated.running_one(client)]
        jobs += [await client.submit(gated.GRAPH, client_id=str(each)) for each in range(3)]

        async def is_explained() -> bool:
            shown = (await client.get(f"api/jobs/{jobs[-1]}"))[1]
            return shown.get("queue_reason") == "ceiling"

        await until(is_explained)
        message = (await client.get(f"api/jobs/{jobs[-1]}"))[1]["queue_message"]
        assert "of this member cost at most 972 credits" in message  # the plan is unknown
        assert "100 credits of the hard budget of 100 credits a day are left" in message
        counts = (await client.get("proxy/api/state"))[1]["counts"]
        assert (counts["running"], counts["waiting"]) == (1, 3)
        opened.set()
        await asyncio.gather(*map(client.ended, jobs))


async def test_jobs_whose_price_another_node_computes_go_one_at_a_time(tmp_path: Path) -> None:
    opened = asyncio.Event()
    graph = {
        **gated.GRAPH,
        "2": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        },
        "3": {"class_type": "GetImageSize", "inputs": {"image": ["2", 0]}},
        "4": {"class_type": "Priced", "inputs": {"number": ["3", 2]}},
    }
    nodes = [gated.gate(opened), partner("Priced", price_badge=BADGE)]
    async with (
        Simulator(extra_nodes=nodes) as simulator,
        running_proxy(simulator, tmp_path / "data", slots=4, client_parallelism="many") as proxy,
        limited_member(proxy, credits_per_day=10_000) as client,
    ):
        jobs = [await client.submit(graph, client_id=str(each)) for each in range(3)]

        async def is_explained() -> bool:
            shown = (await client.get(f"api/jobs/{jobs[-1]}"))[1]
            return "partner node without a known price" in str(shown.get("queue_message"))

        await until(is_explained)
        counts = (await client.get("proxy/api/state"))[1]["counts"]
        assert (counts["running"], counts["waiting"]) == (1, 2)
        opened.set()
        for job in jobs:
            assert (await client.ended(job))["status"]["status_str"] == "success"
