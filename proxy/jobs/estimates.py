"""What a job is expected to cost, and whether its member's budgets allow it.

Earlier runs of the same graph, whatever its values are, say how long it will run: those of the
member, or else anybody's. The decision is made in the transaction that stores the job, so that two
jobs at once do not spend the same credit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec import Struct

from proxy.costs.budgets import Budget, Budgets
from proxy.costs.job_cost import JobCost, JobRun, PartnerCosts, Pricing, seconds_cost
from proxy.jobs.models import Job
from proxy.sharing.turns import Turns
from proxy.storage.database import UnitRefusedError
from proxy.storage.spending import Spending
from proxy.storage.usage import day_of
from proxy.translate.graph_shape import shape_of
from proxy.translate.jobs import has_more_values, reachable

#: How long a graph is expected to run that has never run (ms).
UNKNOWN_MS = 10_000.0

#: Maximum number of values of a graph whose prices are computed on the event loop: usual
#: expressions take 0.3 ms for the first node of a class and 0.05 ms for others.
_MAX_VALUES_AT_ONCE = 100
#: Where a job is expected to run whose member has no account now: it costs what others cost.
_UNKNOWN_ACCOUNT = "unknown"


class OverBudgetError(UnitRefusedError):
    """Raised when a job would exceed a hard budget beside what its member has `spent`. With
    `is_guess` no job has shown yet how long such a graph runs."""

    def __init__(
        self, budget: Budget, spent: Spending, estimate: int, *, is_guess: bool = False
    ) -> None:
        super().__init__(f"the budget {budget.name} is exceeded")
        self.budget = budget
        self.spent = spent
        self.estimate = estimate
        self.is_guess = is_guess


class JobReservation(Struct, frozen=True):
    """The decision on a job (see `proxy.storage.spending.Reservation`).

    A second costs `rate`, and its partner nodes cost `partner_nodes`, in millionths of a credit.
    """

    day: str
    shape: str | None
    rate: int
    partner_nodes: PartnerCosts
    budgets: Budgets

    def decide(self, spending: Spending, typical_ms: float | None) -> int:
        """Return the estimate. Raises `OverBudgetError`."""
        estimate = running_cost(typical_ms, self.rate) + self.partner_nodes.amount
        budget = self.budgets.exceeded_by(spending, estimate)
        if budget is not None:
            raise OverBudgetError(budget, spending, estimate, is_guess=typical_ms is None)
        return estimate


def running_cost(typical_ms: float | None, rate: int) -> int:
    """Return what the running time of a job is expected to cost at `rate` a second."""
    return seconds_cost(round(UNKNOWN_MS if typical_ms is None else typical_ms), rate)


@dataclass(eq=False, repr=False)
class JobEstimator:
    """Estimates jobs before they are accepted. `allowed` returns the accounts of a member."""

    pricing: Pricing
    allowed: Callable[[str], Collection[str]]
    turns: Turns

    async def reservation(self, job: Job, budgets: Budgets) -> JobReservation:
        """Return the decision on a job of a member who has these budgets."""
        work = partial(self._reservation, job, budgets)
        if has_more_values(job.graph, _MAX_VALUES_AT_ONCE):
            return await self.turns.run(job.member, work)
        return work()

    async def cost(self, job: Job, typical_ms: float | None) -> JobCost:
        """Return what a job is expected to cost, in parts, where jobs of its shape run so long."""
        return await self.turns.run(job.member, partial(self._cost, job, typical_ms))

    def _cost(self, job: Job, typical_ms: float | None) -> JobCost:
        graph = _needed(job.graph, job.outputs_to_execute)
        ms = round(UNKNOWN_MS if typical_ms is None else typical_ms)
        dearest = max(
            self.allowed(job.member),
            key=lambda name: self.pricing.rates.get(name, self.pricing.rate),
            default=_UNKNOWN_ACCOUNT,
        )
        return self.pricing.cost_of(JobRun(graph, dearest, ms, ran=graph.keys))

    def _reservation(self, job: Job, budgets: Budgets) -> JobReservation:
        return JobReservation(
            day_of(job.created_at / 1000),
            shape_of(job.graph),
            self.pricing.dearest_rate(self.allowed(job.member)),
            self.pricing.partner_nodes(_needed(job.graph, job.outputs_to_execute)),
            budgets,
        )


def _needed(graph: Mapping[str, Any], outputs: Collection[str]) -> dict[str, Any]:
    """Return the nodes that the outputs need, all without outputs."""
    needed = reachable(graph, outputs or None)
    return {node_id: node for node_id, node in graph.items() if node_id in needed}
