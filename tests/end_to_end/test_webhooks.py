"""Jobs of a running proxy tell webhooks of their starts and ends, whatever happens to the proxy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from receiver import Receiver, receiving
from stack import Client, running_proxy
from team import Team, bearer, running_team
from waiting import until
from yarl import URL

from proxy.cloud import resilience
from proxy.cloud.event_socket import Timeouts
from proxy.costs import budgets
from proxy.engine import account_trial
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator
from proxy.webhooks.delivery import RetrySchedule

QUICK = {"webhooks": RetrySchedule(timeout=10.0, backoff=Backoff(0.05, 0.2))}
HERE = {"webhook_networks": "127.0.0.1"}
ENDS = ["job.completed", "job.failed", "job.cancelled"]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as running:
        yield running


async def add(client: Client, url: URL, **fields: Any) -> dict[str, Any]:
    """Add a webhook; the answer."""
    status, answer = await client.post("proxy/api/webhooks", {"url": str(url), **fields})
    assert status == 201, answer
    return dict(answer)


async def test_a_job_tells_of_its_start_and_its_end(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, receiver: Receiver
) -> None:
    async with running_proxy(simulator, tmp_path, policy=QUICK, **HERE) as proxy:
        client = Client(session, proxy.url)
        made = await add(client, receiver.url / "hook", types=["job.started", *ENDS])
        assert made["secret"].startswith("whsec_")
        entry = await client.run(graphs.plain(1))
        both = {received.type: received for received in await receiver.until(2)}
        started = both["job.started"].verified(made["secret"])["data"]
        ended = both["job.completed"].verified(made["secret"])["data"]
        assert started["prompt_id"] == ended["prompt_id"] == entry["prompt"][1]
        assert (started["state"], ended["state"]) == ("running", "completed")
        (output,) = ended["outputs"]
        async with session.get(proxy.url.join(URL(output["url"], encoded=True))) as answer:
            assert answer.status == 200
            assert await answer.read() == await client.view(entry["outputs"]["2"]["images"][0])


async def test_failed_and_cancelled_jobs_tell_of_it(
    session: aiohttp.ClientSession, tmp_path: Path, receiver: Receiver
) -> None:
    async with (
        Simulator(extra_nodes=[gated.gate(asyncio.Event())]) as simulator,
        running_proxy(simulator, tmp_path, policy=QUICK, **HERE) as proxy,
    ):
        client = Client(session, proxy.url)
        await add(client, receiver.url / "hook")
        failed = await client.submit(graphs.raising())
        (received,) = await receiver.until(1)
        assert received.type == "job.failed"
        assert received.json["data"]["prompt_id"] == failed
        assert received.json["data"]["error"]["message"]
        stopped = await gated.running_one(client)
        await client.post("interrupt", {})
        _, received = await receiver.until(2)
        assert (received.type, received.json["data"]["prompt_id"]) == ("job.cancelled", stopped)


async def test_a_budget_that_is_reached_is_delivered_once(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, receiver: Receiver
) -> None:
    budget = {"soft_credits_per_day": 0.000001}
    async with running_proxy(simulator, tmp_path, policy=QUICK, **HERE, **budget) as proxy:
        client = Client(session, proxy.url)
        types = ["budget.reached", "job.completed"]
        made = await add(client, receiver.url / "hook", types=types)
        for color in range(3):
            await client.run(graphs.plain(color))
        received = [message.type for message in await receiver.until(4)]
        assert sorted(received) == ["budget.reached", *["job.completed"] * 3]
        (told,) = [message for message in receiver.got if message.type == "budget.reached"]
        data = told.verified(made["secret"])["data"]
        assert (data["member"], data["budget"], data["hard"]) == (
            "local",
            "soft_credits_per_day",
            False,
        )
        assert data["spent"] >= data["limit"] == 0.000001


async def test_the_first_refusal_of_a_hard_budget_is_delivered_and_logged_once(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
) -> None:
    budget = {"credits_per_day": 0.6}
    async with running_proxy(simulator, tmp_path, policy=QUICK, **HERE, **budget) as proxy:
        client = Client(session, proxy.url)
        await add(client, receiver.url / "hook", types=["budget.near", "budget.reached"])
        for _ in range(3):
            status, answer = await client.post("prompt", {"prompt": graphs.plain(1)})
            assert status == 429
        assert (
            "nobody has run this workflow here, so 10 s are assumed" in answer["error"]["message"]
        )
        (told,) = await receiver.until(1)
        data = told.json["data"]
        assert (told.type, data["refused"], data["limit"]) == ("budget.reached", True, 0.6)
        _, metrics = await client.get("metrics")
        assert 'budget_credits_left{budget="credits_per_day",member="local"} 0.6' in metrics
    assert capsys.readouterr().out.count("budget_reached ") == 1
    assert len(receiver.got) == 1


async def test_a_budget_that_is_nearly_spent_is_delivered_and_shown(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budgets, "NEAR", 1e-9)
    budget = {"soft_credits_per_day": 1000}
    async with running_proxy(simulator, tmp_path, policy=QUICK, **HERE, **budget) as proxy:
        client = Client(session, proxy.url)
        await add(client, receiver.url / "hook", types=["budget.near"])
        await client.run(graphs.sampled(2, steps=20))  # it takes some ms
        (told,) = await receiver.until(1)
        assert (told.type, told.json["data"]["budget"]) == ("budget.near", "soft_credits_per_day")
        (shown,) = (await client.get("proxy/api/state"))[1]["budgets"]
        assert (shown["near"], shown["reached"]) == (True, False)


async def test_a_stop_between_the_end_of_a_job_and_its_delivery_loses_nothing(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.answer("/hook", 503)
    async with running_proxy(simulator, tmp_path, policy=QUICK, **HERE) as proxy:
        client = Client(session, proxy.url)
        made = await add(client, receiver.url / "hook")
        await client.run(graphs.plain(1))
        (first, *_) = await receiver.until(1)
    del receiver.answers["/hook"]
    receiver.got.clear()
    async with running_proxy(simulator, tmp_path, policy=QUICK, **HERE):
        (again, *_) = await receiver.until(1)
    assert again.id == first.id
    assert again.body == first.body
    again.verified(made["secret"])


async def test_an_account_tells_of_its_trouble_and_its_end(
    simulator: Simulator, session: aiohttp.ClientSession, tmp_path: Path, receiver: Receiver
) -> None:
    async with running_proxy(simulator, tmp_path, policy=QUICK, **HERE) as proxy:
        client = Client(session, proxy.url)
        wanted = ["account.unavailable", "account.recovered"]
        await add(client, receiver.url / "hook", types=wanted, gateway=True)
        body = json.dumps({"error": {"type": "PAYMENT_REQUIRED", "message": "No credits."}})
        simulator.faults.add(HttpFault("POST /api/prompt", status=402, body=body))
        await client.post("prompt", {"prompt": graphs.plain(1)})
        (down,) = await receiver.until(1)
        assert (down.type, down.json["data"]) == (
            "account.unavailable",
            {"account": "default", "reason": "no_credits"},
        )
        await client.run(graphs.plain(2))
        _, up = await receiver.until(2)
        assert (up.type, up.json["data"]["account"]) == ("account.recovered", "default")


@pytest.mark.parametrize("reason", ["no_credits", "dead_key"])
async def test_an_account_recovers_without_a_submission(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
) -> None:
    monkeypatch.setattr(account_trial, "INTERVAL", 0.02)
    monkeypatch.setattr(account_trial, "TRIALS", Backoff(0.05, 0.05))
    monkeypatch.setattr(resilience, "REFUSED_KEY_RETRIES", Backoff(0.05, 0.1))
    simulator.switches.billing_for_keys = True
    timeouts = Timeouts(socket_backoff=Backoff(0.05, 0.1))
    async with running_proxy(simulator, tmp_path, policy=QUICK, timeouts=timeouts, **HERE) as proxy:
        client = Client(session, proxy.url)
        wanted = ["account.unavailable", "account.recovered"]
        await add(client, receiver.url / "hook", types=wanted, gateway=True)
        if reason == "no_credits":
            body = json.dumps({"error": {"type": "PAYMENT_REQUIRED", "message": "No credits."}})
            simulator.faults.add(HttpFault("POST /api/prompt", status=402, body=body))
        else:
            refused = json.dumps({"message": "Unauthorized"})
            for path in ("POST /api/prompt", "GET /api/user"):
                simulator.faults.add(HttpFault(path, status=401, body=refused), times=None)
        await client.post("prompt", {"prompt": graphs.plain(1)})
        (down,) = await receiver.until(1)
        assert down.json["data"]["reason"] == reason
        simulator.account.balance_cents += 500
        simulator.faults.clear()
        _, up = await receiver.until(2)
        assert up.type == "account.recovered"


@pytest.fixture
async def team(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Team]:
    async with running_team(simulator, tmp_path, policy=QUICK, **HERE) as running:
        yield running


async def ask(
    session: aiohttp.ClientSession,
    team: Team,
    token: str,
    method: str,
    path: str = "",
    body: Any = None,
) -> tuple[int, Any]:
    url = team.url / f"proxy/api/webhooks{path}"
    async with session.request(method, url, json=body, headers=bearer(token)) as answer:
        return answer.status, await answer.json() if answer.status != 204 else None


async def test_members_have_their_own_webhooks_and_neither_see_nor_touch_others(
    session: aiohttp.ClientSession, team: Team, receiver: Receiver
) -> None:
    made = {}
    for name, token in (("ann", team.ann), ("bob", team.bob)):
        body = {"url": str(receiver.url / name)}
        status, made[name] = await ask(session, team, token, "POST", body=body)
        assert (status, made[name]["member"]) == (201, name)
    status, answer = await ask(session, team, team.bob, "GET")
    assert [webhook["id"] for webhook in answer["webhooks"]] == [made["bob"]["id"]]
    assert "secret" not in answer["webhooks"][0]
    status, _ = await ask(session, team, team.ann, "GET")
    ids = [webhook["id"] for webhook in (await ask(session, team, team.ann, "GET"))[1]["webhooks"]]
    assert set(ids) == {made["ann"]["id"], made["bob"]["id"]}

    anns, nobodys = made["ann"]["id"], "wh_0000000000000000"
    for method, rest, body in (
        ("PATCH", "", {"disabled": True}),
        ("DELETE", "", None),
        ("POST", "/secret", None),
        ("POST", "/test", None),
        ("GET", "/deliveries", None),
    ):
        of_ann = await ask(session, team, team.bob, method, f"/{anns}{rest}", body)
        of_nobody = await ask(session, team, team.bob, method, f"/{nobodys}{rest}", body)
        assert of_ann == of_nobody
        assert of_ann[0] == 404

    gateway = {"url": str(receiver.url / "all"), "gateway": True}
    assert (await ask(session, team, team.bob, "POST", body=gateway))[0] == 403
    status, answer = await ask(session, team, team.ann, "POST", body=gateway)
    assert (status, answer["member"]) == (201, None)
    bob = Client(
        aiohttp.ClientSession(headers=bearer(team.bob)), team.url
    )  # his jobs tell him and the gateway
    async with bob.session:
        await bob.run(graphs.plain(1))
    await receiver.until(1, "/bob")
    await receiver.until(1, "/all")
    assert receiver.at("/ann") == []


async def test_a_webhook_is_changed_tested_and_removed(
    session: aiohttp.ClientSession, team: Team, receiver: Receiver
) -> None:
    body = {"url": str(receiver.url / "hook")}
    _, made = await ask(session, team, team.bob, "POST", body=body)
    path = f"/{made['id']}"
    status, tested = await ask(session, team, team.bob, "POST", f"{path}/test")
    assert status == 202
    (received,) = await receiver.until(1)
    assert (received.id, received.type) == (tested["message"], "webhook.test")
    received.verified(made["secret"])

    async def log() -> list[dict[str, Any]]:
        _, answer = await ask(session, team, team.bob, "GET", f"{path}/deliveries")
        return list(answer["deliveries"])

    async def logged() -> bool:
        return bool((await log())[0]["outcome"] == "delivered")

    await until(logged)
    (entry,) = await log()
    assert (entry["status"], entry["attempts"], entry["next"]) == (204, 1, None)
    _, shown = await ask(session, team, team.bob, "GET")
    assert shown["webhooks"][0]["last"] == entry

    _, changed = await ask(session, team, team.bob, "PATCH", path, {"types": ["job.failed"]})
    assert changed["types"] == ["job.failed"]
    status, renewed = await ask(session, team, team.bob, "POST", f"{path}/secret")
    assert status == 200
    assert renewed["secret"] != made["secret"]
    await ask(session, team, team.bob, "POST", f"{path}/test")
    _, received = await receiver.until(2)
    received.verified(renewed["secret"])
    assert (await ask(session, team, team.bob, "DELETE", path))[0] == 204
    assert (await ask(session, team, team.bob, "GET"))[1]["webhooks"] == []


async def test_many_tests_are_refused_with_the_time_to_wait(
    session: aiohttp.ClientSession, team: Team, receiver: Receiver
) -> None:
    body = {"url": str(receiver.url / "hook")}
    _, made = await ask(session, team, team.bob, "POST", body=body)
    url = team.url / f"proxy/api/webhooks/{made['id']}/test"
    for _ in range(100):
        async with session.post(url, headers=bearer(team.bob)) as answer:
            found = await answer.json()
        if answer.status != 202:
            break
    assert (answer.status, found["error"]["type"]) == (429, "too_many_webhook_tests")
    assert 1 <= int(answer.headers["Retry-After"]) <= 6
    assert (await ask(session, team, team.ann, "POST", f"/{made['id']}/test"))[0] == 202


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"url": "ftp://example.com/"}, 400),
        ({"url": "http://10.0.0.1/"}, 400),
        ({"url": "http://169.254.169.254/"}, 400),
        ({"url": "https://a:b@example.com/"}, 400),
        ({"url": "https://example.com/", "types": []}, 400),
        ({"url": "https://example.com/", "types": ["job.dreamt"]}, 400),
        ({"url": "https://example.com/", "types": ["account.unavailable"]}, 400),
        ({"url": "https://example.com/", "secret": "mine"}, 400),
        ([], 400),
    ],
)
async def test_what_cannot_be_a_webhook_is_refused_with_a_sentence(
    session: aiohttp.ClientSession, team: Team, body: Any, status: int
) -> None:
    found, answer = await ask(session, team, team.bob, "POST", body=body)
    assert found == status
    assert answer["error"]["message"].endswith(".")
    assert set(answer) == {"error", "node_errors"}


async def test_a_member_has_ten_webhooks(
    session: aiohttp.ClientSession, team: Team, receiver: Receiver
) -> None:
    body = {"url": str(receiver.url / "hook")}
    for _ in range(10):
        assert (await ask(session, team, team.bob, "POST", body=body))[0] == 201
    status, answer = await ask(session, team, team.bob, "POST", body=body)
    assert (status, answer["error"]["type"]) == (409, "too_many_webhooks")
