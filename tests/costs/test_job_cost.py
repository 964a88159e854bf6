"""What jobs cost: their seconds, and what partner nodes report or their classes say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.costs.job_cost import Charge, JobCost, JobRun, Pricing, reported_price, seconds_cost

CLASSES: dict[str, dict[str, Any]] = {
    "KSampler": {"api_node": False},
    "Flux": {"api_node": True, "price": 4_000_000},
    "Dear": {"api_node": True},
}


def price_of(info: Mapping[str, Any], inputs: Mapping[str, Any]) -> int | None:
    price = info.get("price")
    return None if price is None else price * int(inputs.get("n", 1))


PRICING = Pricing(CLASSES.get, price_of, 270_000, {"slow": 100_000})

GRAPH = {
    "1": {"class_type": "KSampler", "inputs": {}},
    "2": {"class_type": "Flux", "inputs": {"n": 2}},
    "3": {"class_type": "Flux", "inputs": {}},
    "4": {"class_type": "Dear", "inputs": {}},
    "5": {"class_type": "New", "inputs": {}},
    "6": None,
}


def cost(
    *,
    account: str = "main",
    ms: int = 0,
    ran: Sequence[str] = (),
    reported: Mapping[str, int] | None = None,
) -> set[Charge]:
    run = JobRun(GRAPH, account, ms, lambda: ran, reported or {})
    return set(PRICING.cost_of(run).charges)


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("Status: Completed\nPrice: 8.4 credits\nTime elapsed: 3s", 8_400_000),
        ("Price: $0.0400", 8_440_000),
        ("price: 1,234.5 credits", 1_234_500_000),
        ("Credits used: 3", 3_000_000),
        ("Time elapsed: 3s", None),
        ("The Price: $3", None),
        ("Price: free", None),
        ("Price: 9999999999999 credits", None),
        ("", None),
    ],
)
def test_a_price_is_read_from_the_text_of_a_node(text: str, price: int | None) -> None:
    assert reported_price(text) == price


@given(st.text(alphabet="Price: $0123456789,.\n"))
def test_any_text_has_a_price_of_an_amount_or_none(text: str) -> None:
    assert (reported_price(text) or 0) >= 0


def test_running_time_is_charged_by_the_rate_of_the_account() -> None:
    assert cost(ms=1500) == {Charge("", "estimated", 405_000)}
    assert cost(ms=1500, account="slow") == {Charge("", "estimated", 150_000)}


def test_a_job_that_ran_on_no_account_costs_nothing() -> None:
    assert cost(account="", ms=1500, ran=["2"], reported={"2": 5}) == set()


def test_of_partner_nodes_those_that_ran_are_charged() -> None:
    assert cost(ran=["1", "2", "3"]) == {Charge("Flux", "estimated", 12_000_000, 2)}
    assert cost(ran=["2", "4"], reported={"3": 7}) == {
        Charge("Flux", "estimated", 8_000_000, 1),
        Charge("Flux", "reported", 7, 1),
        Charge("Dear", "unknown", 0, 1),
    }


def test_a_reported_price_goes_before_an_estimate() -> None:
    assert cost(ran=["3"], reported={"3": 0}) == {Charge("Flux", "reported", 0, 1)}


def test_a_node_that_has_not_succeeded_is_charged_only_what_it_reports() -> None:
    assert cost(ran=["2"]) == {Charge("Flux", "estimated", 8_000_000, 1)}
    assert cost(reported={"3": 7}) == {Charge("Flux", "reported", 7, 1)}


def test_what_ran_is_asked_for_partner_nodes_alone() -> None:
    asked = Mock(return_value=())
    PRICING.cost_of(JobRun({"1": GRAPH["1"]}, "main", 1500, asked))
    asked.assert_not_called()


def test_a_text_of_another_node_is_no_price() -> None:
    assert cost(ran=["1"], reported={"1": 7}) == set()
    assert cost(ran=["5"], reported={"5": 7}) == {Charge("New", "reported", 7, 1)}


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["reported"], "reported"),
        (["reported", "estimated"], "estimated"),
        (["reported", "unknown", "estimated"], "unknown"),
        ([], "estimated"),
    ],
)
def test_a_sum_is_as_certain_as_its_least_certain_part(sources: list[Any], expected: str) -> None:
    charges = tuple(Charge("", source, 0 if source == "unknown" else 5, 1) for source in sources)
    whole = JobCost(charges)
    assert whole.source == expected
    assert whole.amount == 5 * (len(sources) - sources.count("unknown"))


@given(st.integers(0, 10**10), st.integers(0, 10**9))
def test_seconds_are_never_rounded_down(ms: int, rate: int) -> None:
    assert 0 <= seconds_cost(ms, rate) * 1000 - ms * rate < 1000
