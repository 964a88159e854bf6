"""Credentials, plans and refusals."""

from __future__ import annotations

import aiohttp
import pytest
from graphs import plain
from simulator.visitor import Visitor

from proxy.simulator import Simulator


@pytest.mark.parametrize("how", ["X-API-Key", "Authorization", "token"])
async def test_the_key_is_taken_in_three_places(visitor: Visitor, how: str) -> None:
    headers = {"X-API-Key": visitor.key, "Authorization": f"Bearer {visitor.key}"}
    query = {"token": visitor.key} if how == "token" else {}
    answer = await visitor.ask(
        "GET",
        "/api/user",
        query=query,
        keyed=False,
        headers={name: value for name, value in headers.items() if name == how},
    )
    assert answer.status == 200
    assert answer.json["status"] == "active"


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


async def test_a_bad_header_is_not_saved_by_a_good_token(visitor: Visitor) -> None:
    answer = await visitor.ask(
        "GET",
        "/api/user",
        query={"token": visitor.key},
        keyed=False,
        headers={"X-API-Key": "wrong"},
    )
    assert answer.status == 401


PUBLIC = [
    "/api/features",
    "/api/system_stats",
    "/api/workflow_templates",
    "/api/global_subgraphs",
    "/api/node_replacements",
    "/api/extensions",
    "/api/experiment/models",
    "/api/experiment/models/checkpoints",
    "/health",
]


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_routes_ask_for_no_key(visitor: Visitor, path: str) -> None:
    assert (await visitor.ask("GET", path, keyed=False)).status == 200


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


@pytest.mark.parametrize(("refusal", "status"), [("INTERNAL", 500), ("UNAVAILABLE", 503)])
async def test_failures_of_the_platform_are_flat(
    sim: Simulator, visitor: Visitor, refusal: str, status: int
) -> None:
    sim.switches.update({"refuse_prompt": refusal})
    answer = await visitor.post("/api/prompt", {"prompt": plain()})
    assert answer.status == status
    assert set(answer.json) == {"code", "message"}


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


async def test_more_requests_than_the_rate_get_429(sim: Simulator, visitor: Visitor) -> None:
    sim.switches.update({"rate_limit": 2, "rate_limit_retry_after": True})
    answers = [await visitor.get("/api/user") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["Retry-After"] == "1"


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


async def test_a_file_of_another_account_is_not_found(sim: Simulator, visitor: Visitor) -> None:
    other = sim.add_account("another-key")
    detail = await visitor.run(plain())
    name = detail["preview_output"]["filename"]
    async with aiohttp.ClientSession() as session:
        stranger = Visitor(sim, session, other.key)
        assert (await stranger.get("/api/view", filename=name)).status == 404


@pytest.mark.parametrize(
    "path", ["/prompt", "/queue", "/history", "/object_info", "/api/ws", "/api/free", "/"]
)
async def test_what_the_cloud_does_not_have_is_404(visitor: Visitor, path: str) -> None:
    assert (await visitor.get(path)).status == 404


STUBS = [
    "/api/history",
    "/api/history/x",
    "/api/object_info/KSampler",
    "/api/models",
    "/api/models/checkpoints",
    "/api/view_metadata/checkpoints",
    "/api/v2/userdata",
    "/api/embeddings",
    "/api/i18n",
]


@pytest.mark.parametrize("path", STUBS)
async def test_stubs_are_404_with_a_flat_body(visitor: Visitor, path: str) -> None:
    answer = await visitor.get(path)
    assert (answer.status, set(answer.json)) == (404, {"code", "message"})


async def test_a_wrong_method_is_405(visitor: Visitor) -> None:
    answer = await visitor.ask("PUT", "/api/queue")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, POST")
