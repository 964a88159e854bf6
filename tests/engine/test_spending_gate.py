"""What a job may spend when it is about to be sent."""

from __future__ import annotations

import pytest

from proxy.costs.budgets import Budget, Budgets
from proxy.engine.spending_gate import JobClaim, Shortfall
from proxy.storage.spending import Spending

DAY = Budget("credits_per_day", "day", 100, hard=True)
SOFT = Budget("soft_credits_per_day", "day", 1, hard=False)


def claim(estimate: int) -> JobClaim:
    return JobClaim("anna", 1, "2026-11-28", estimate, 1000, Budgets((DAY, SOFT)))


@pytest.mark.parametrize(
    ("estimate", "spent", "held", "refusal"),
    [
        (100, 0, 0, None),
        (60, 40, 0, None),
        (61, 40, 0, Shortfall(DAY, 60)),
        (0, 99, 0, None),
        (0, 100, 0, Shortfall(DAY, 0)),
        (0, 120, 0, Shortfall(DAY, -20)),
        (10, 40, 50, None),
        (10, 40, 51, Shortfall(DAY, 60, 51)),
        (61, 40, 51, Shortfall(DAY, 60)),
    ],
)
def test_a_job_fits_alone_and_beside_what_the_others_may_cost_at_most(
    estimate: int, spent: int, held: int, refusal: Shortfall | None
) -> None:
    assert claim(estimate).refusal(Spending(spent, spent, held)) == refusal
