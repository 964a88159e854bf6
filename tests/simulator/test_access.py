"""Credentials, plans and refusals."""

from __future__ import annotations

import aiohttp
import pytest
from graphs import plain
from simulator.visitor import Visitor

from proxy.simulator import Simulator


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer "},
    ],
)
async def test_without_a_good_key_it_is_401(visitor: Visitor, headers: dict[str, str]) -> None:
    answer = await visitor.ask("GET", "/api/jobs", keyed=False, headers=headers)
    assert (answer.status, answer.code) == (401, "UNAUTHORIZED")


PAID = ["/api/object_info", "/api/queue", "/api/userdata?dir=x/", "/api/view?filename=x"]


@pytest.mark.parametrize("path", PAID)
async def test_the_free_plan_has_no_access_by_api(
    sim: Simulator, visitor: Visitor, path: str
) -> None:
    sim.set_plan("free")
    assert (await visitor.get(path)).status == 403
    assert (await visitor.get("/api/user")).status == 200


@pytest.mark.parametrize(
    ("refusal", "status", "retry_after"),
    [
        ("PAYMENT_REQUIRED", 402, None),
        ("CLOUD_SUBSCRIPTION_REQUIRED", 402, None),
        ("FREE_TIER_EXHAUSTED", 402, None),
        ("PARTNER_NODE_PAYMENT_REQUIRED", 402, None),
        ("MODEL_PAYMENT_REQUIRED", 402, None),
        ("PARTNER_NODE_DISABLED", 403, None),
        ("QUEUE_LIMIT", 429, None),
        ("FREE_TIER_UNAVAILABLE", 429, None),
        ("BILLING_UNAVAILABLE", 429, "1"),
        ("PLATFORM_REFUSED", 429, "1"),
    ],
)
async def test_submissions_are_refused_in_the_documented_shapes(
    sim: Simulator, visitor: Visitor, refusal: str, status: int, retry_after: str | None
) -> None:
    sim.switches.update({"refuse_prompt": refusal})
    answer = await visitor.post("/api/prompt", {"prompt": plain()})
    assert (answer.status, answer.json["error"]["type"]) == (status, refusal)
    assert answer.headers.get("Retry-After") == retry_after
    assert not sim.jobs


async def test_credits_are_used_up(sim: Simulator, visitor: Visitor) -> None:
    sim.account.credits = 1
    await visitor.run(plain())
    answer = await visitor.post("/api/prompt", {"prompt": plain()})
    assert (answer.status, answer.code) == (402, "PAYMENT_REQUIRED")


async def test_an_account_can_be_refused_as_a_whole(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.refuse_account = "sso_required"
    answer = await visitor.get("/api/jobs")
    assert (answer.status, answer.code) == (403, "sso_required")
    assert "organization_id" in answer.json
    sim.switches.refuse_account = "auth_type_not_allowed"
    assert (await visitor.get("/api/jobs")).json["accepted"] == ["session"]


@pytest.mark.parametrize(
    ("form", "code", "body"),
    [
        ("text", "", "too many requests"),
        ("empty", "", ""),
        ("flat", "SLOW_DOWN", {"code": "SLOW_DOWN", "message": "too many requests"}),
        ("flat", "", {"message": "too many requests"}),
        ("nested", "X", {"error": {"type": "X", "message": "too many requests"}}),
    ],
)
async def test_a_429_has_the_body_that_is_chosen(
    sim: Simulator, visitor: Visitor, form: str, code: str, body: object
) -> None:
    sim.switches.update({"rate_limit": 1, "rate_limit_form": form, "rate_limit_code": code})
    await visitor.get("/api/user")
    answer = await visitor.get("/api/user")
    assert answer.status == 429
    assert (answer.body.decode() if isinstance(body, str) else answer.json) == body


async def test_billing_refusals_may_have_the_older_status(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.update({"refuse_prompt": "MODEL_PAYMENT_REQUIRED", "billing_status": 429})
    answer = await visitor.post("/api/prompt", {"prompt": plain()})
    assert (answer.status, answer.code) == (429, "MODEL_PAYMENT_REQUIRED")
    sim.switches.refuse_prompt = "PARTNER_NODE_DISABLED"
    assert (await visitor.post("/api/prompt", {"prompt": plain()})).status == 403


async def test_a_foreign_job_is_403_and_cannot_be_cancelled(
    sim: Simulator, visitor: Visitor
) -> None:
    other = sim.add_account("another-key")
    job_id = await visitor.submit(plain())
    async with aiohttp.ClientSession() as session:
        stranger = Visitor(sim, session, other.key)
        assert (await stranger.get(f"/api/jobs/{job_id}")).status == 403
        assert (await stranger.post(f"/api/jobs/{job_id}/cancel")).status == 404
        assert (await stranger.get("/api/jobs")).json["jobs"] == []
