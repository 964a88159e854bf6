"""What jobs are expected to cost, and what is left of a budget."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from jobs.samples import new

from proxy.costs.budgets import Budget, Budgets
from proxy.costs.job_cost import PartnerCosts, Pricing
from proxy.jobs.estimates import UNKNOWN_MS, JobEstimator, OverBudgetError
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


def estimator() -> JobEstimator:
    pricing = Pricing(CLASSES.get, lambda info, _: info.get("price"), 270_000, {"fast": 1_000_000})
    return JobEstimator(
        pricing, {"anna": {"fast", "slow"}, "local": {"slow"}}.__getitem__, thread_turns()
    )


def job(**fields: Any) -> Job:
    values = {"created_at": 86_400_000, "outputs_to_execute": (), **fields}
    return new("one", graph=GRAPH, **values)


async def test_an_estimate_is_time_at_the_dearest_rate_and_partner_nodes() -> None:
    reservation = await estimator().reservation(job(outputs_to_execute=("3",)), BUDGETS)
    assert (reservation.day, reservation.shape) == ("1970-01-02", shape_of(GRAPH))
    assert reservation.decide(Spending(), 2000.0) == 2 * 270_000 + 4_000_000
    assert reservation.decide(Spending(), None) == UNKNOWN_MS * 270 + 4_000_000
    dearer = await estimator().reservation(job(member="anna", outputs_to_execute=("3",)), BUDGETS)
    assert dearer.decide(Spending(), 2000.0) == 2_000_000 + 4_000_000


async def test_without_known_outputs_all_nodes_count() -> None:
    reservation = await estimator().reservation(job(), BUDGETS)
    assert reservation.partner_nodes == PartnerCosts(8_000_000, all_known=False)


async def test_a_node_of_an_unknown_class_may_have_a_price() -> None:
    """As are all classes until the list of nodes is read."""
    graph = {"1": {"class_type": "New", "inputs": {}}}
    reservation = await estimator().reservation(new("one", graph=graph), BUDGETS)
    assert reservation.partner_nodes == PartnerCosts(0, all_known=False)


async def test_a_job_beyond_the_budget_says_what_is_left() -> None:
    reservation = await estimator().reservation(job(), BUDGETS)
    with pytest.raises(OverBudgetError) as refused:
        reservation.decide(Spending(day=1_000_000, month=1_000_000, reserved=500_000), 2000.0)
    error = refused.value
    assert (error.budget.left(error.spent), error.estimate) == (8_500_000, 8_540_000)
    assert error.budget.name == "credits_per_day"


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
    reservation = await JobEstimator(pricing, lambda _: (), thread_turns()).reservation(
        large, BUDGETS
    )
    assert reservation.partner_nodes == PartnerCosts(nodes)
    assert (threading.get_ident() not in threads) is in_thread
