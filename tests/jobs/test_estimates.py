"""What jobs are expected to cost, and what is left of a budget."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from jobs.samples import new

from proxy.costs.budgets import Budget, Budgets
from proxy.costs.job_cost import Pricing
from proxy.jobs.estimates import UNKNOWN_MS, BudgetDecision, JobEstimator, OverBudgetError
from proxy.jobs.models import Job
from proxy.sharing.turns import thread_turns
from proxy.storage.spending import Spending
from proxy.translate.graph_shape import shape_of

CLASSES: dict[str, Any] = {
    "Flux": {"api_node": True, "price": 4_000_000},
    "Dear": {"api_node": True},
    "Save": {"output_node": True},
}
GRAPH = {
    "1": {"class_type": "Flux", "inputs": {}},
    "2": {"class_type": "Dear", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
    "4": {"class_type": "Flux", "inputs": {}},
}
BUDGETS = Budgets((Budget("credits_per_day", "day", 10_000_000, hard=True),))


def estimator(typical_ms: float | None = 2000.0) -> JobEstimator:
    pricing = Pricing(CLASSES.get, lambda info, _: info.get("price"), 270_000, {"fast": 1_000_000})
    allowed = {"anna": {"fast", "slow"}, "local": {"slow"}}.__getitem__
    return JobEstimator(pricing, allowed, lambda _member, _shape: typical_ms, thread_turns())


def job(**fields: Any) -> Job:
    values = {"created_at": 86_400_000, "outputs_to_execute": (), **fields}
    return new("one", graph=GRAPH, **values)


async def test_an_estimate_is_time_at_the_dearest_rate_and_partner_nodes() -> None:
    one = job(outputs_to_execute=("3",))
    found = await estimator().estimate(one)
    assert (found.shape, found.is_guess) == (shape_of(GRAPH), False)
    assert (found.cost.amount, found.partner_nodes) == (2 * 270_000 + 4_000_000, 4_000_000)
    guess = await estimator(None).estimate(one)
    assert (guess.cost.amount, guess.is_guess) == (UNKNOWN_MS * 270 + 4_000_000, True)
    other = job(member="anna", outputs_to_execute=("3",))
    assert (await estimator().estimate(other)).cost.amount == 2_000_000 + 4_000_000
    assert (await estimator().estimate(other, "slow")).cost.amount == 2 * 270_000 + 4_000_000
    assert estimator().running_cost(other) == 2_000_000


async def test_without_known_outputs_all_nodes_count() -> None:
    found = await estimator().estimate(job())
    assert (found.partner_nodes, found.all_known) == (8_000_000, False)


async def test_a_node_of_an_unknown_class_may_have_a_price() -> None:
    """As are all classes until the list of nodes is read."""
    graph = {"1": {"class_type": "New", "inputs": {}}}
    found = await estimator().estimate(new("one", graph=graph))
    assert (found.partner_nodes, found.all_known) == (0, False)


async def test_a_job_beyond_the_budget_says_what_is_left() -> None:
    decision = BudgetDecision("1970-01-02", BUDGETS, await estimator().estimate(job()))
    with pytest.raises(OverBudgetError) as refused:
        decision.check(Spending(day=1_000_000, month=1_000_000, reserved=500_000))
    shortfall = refused.value.shortfall
    assert (shortfall.left, shortfall.estimate) == (8_500_000, 8_540_000)
    assert shortfall.budget.name == "credits_per_day"


async def test_a_job_that_is_sent_counts_beside_what_others_may_cost_at_most() -> None:
    estimate = await estimator().estimate(job())
    spent = Spending(day=1_000_000, month=1_000_000, reserved=9_000_000)
    BudgetDecision("1970-01-02", BUDGETS, estimate, reserved=460_000).check(spent)
    with pytest.raises(OverBudgetError):
        BudgetDecision("1970-01-02", BUDGETS, estimate, reserved=460_001).check(spent)


@pytest.mark.parametrize(("nodes", "in_thread"), [(10, False), (400, True)])
async def test_the_prices_of_a_large_graph_are_computed_in_a_thread(
    nodes: int, in_thread: bool
) -> None:
    threads = set()

    def price_of(_info: object, _inputs: object) -> int:
        threads.add(threading.get_ident())
        return 1

    pricing = Pricing(CLASSES.get, price_of, 270_000)
    graph = {str(number): GRAPH["1"] for number in range(nodes)}
    large = new("one", graph=graph, created_at=0, outputs_to_execute=())
    estimates = JobEstimator(pricing, lambda _: (), lambda _member, _shape: None, thread_turns())
    found = await estimates.estimate(large)
    assert (found.partner_nodes, found.all_known) == (nodes, True)
    assert (threading.get_ident() not in threads) is in_thread
