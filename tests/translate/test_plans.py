"""An account's plan and money in the cloud's own units, which their names hide."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.translate.plans import AccountPlan, balance_cents, plan_of, run_refusal_of


@pytest.mark.parametrize(
    ("body", "cents"),
    [
        ({"amount_micros": 1234}, 1234),
        ({"amount_cents": 1234, "amount_micros": 1234}, 1234),
        ({"effective_balance_micros": "1234", "amount_micros": 99}, 1234),
        ({"effective_balance_micros": 0, "amount_micros": 99}, 99),
        ({"effective_balance_micros": 0, "prepaid_balance_micros": 0}, 0),
        ({"prepaid_balance_micros": 5, "cloud_credit_balance_micros": 7}, 5),
        ({"cloud_credit_balance_cents": -7}, -7),
        ({"amount_micros": 1234.0}, 1234),
        ({}, None),
        (None, None),
        ({"amount_micros": None}, None),
        ({"amount_micros": True}, None),
        ({"amount_micros": "much"}, None),
        ({"amount_micros": "NaN"}, None),
        ({"amount_micros": "1e999999"}, None),
        ({"amount_micros": "1e9999999"}, None),
        ({"amount_micros": [1]}, None),
        (["amount_micros"], None),
    ],
)
def test_micros_of_balances_are_cents(body: object, cents: int | None) -> None:
    assert balance_cents(body) == cents


@pytest.mark.parametrize(
    ("features", "tier", "slots", "certain", "minutes"),
    [
        ({"max_concurrent_jobs": 3}, None, 3, True, None),
        ({"max_concurrent_jobs": "4"}, "PRO", 4, True, 60),
        ({}, "STANDARD", 1, False, 30),
        ({}, "CREATOR", 3, False, 30),
        ({}, "FOUNDERS_EDITION", 1, False, 30),
        ({}, "pro", 5, False, 60),
        ({}, "TEAM", 25, False, None),
        ({}, "ENTERPRISE", None, False, None),
        ({"max_concurrent_jobs": 0}, "FREE", 1, False, 10),
        ({"max_concurrent_jobs": -1}, None, None, False, None),
        ({"max_concurrent_jobs": 10**9}, None, None, False, None),
        ({"max_concurrent_jobs": None}, "<b>", None, False, None),
        (None, 7, None, False, None),
    ],
)
def test_the_number_that_is_stated_comes_before_that_of_the_tier(
    features: Any, tier: Any, slots: int | None, certain: bool, minutes: int | None
) -> None:
    plan = plan_of(features, {"subscription_tier": tier}, None)
    assert (plan.slots, plan.certain, plan.minutes) == (slots, certain, minutes)


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        (AccountPlan(), ""),
        (
            AccountPlan("CREATOR", 3, False, 30, 1205, "USD"),
            "Creator plan, 3 jobs at once, 30 minutes for a run, balance 12.05 USD",
        ),
        (AccountPlan("FOUNDERS_EDITION", 1), "Founders edition plan, 1 job at once"),
        (AccountPlan(balance_cents=-5), "balance -0.05"),
    ],
)
def test_what_is_known_is_one_sentence(plan: AccountPlan, sentence: str) -> None:
    assert plan.sentence() == sentence


@pytest.mark.parametrize(
    ("can_run", "refusal"),
    [
        ({"allowed": True}, ""),
        (True, ""),
        ({"allowed": False, "reason": "payment_past_due"}, "payment past due"),
        ({"allowed": False, "reason": "<b>"}, "no reason is given"),
        (False, "no reason is given"),
        ({}, None),
        (None, None),
    ],
)
def test_why_an_account_may_run_nothing(can_run: object, refusal: str | None) -> None:
    assert run_refusal_of({"capabilities": {"can_run_workflows": can_run}}) == refusal


def test_an_answer_without_capabilities_says_nothing() -> None:
    assert [run_refusal_of(answer) for answer in (None, {}, [], {"capabilities": 1})] == [None] * 4
