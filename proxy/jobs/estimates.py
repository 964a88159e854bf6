"""What a job is expected to cost, and whether its member's budgets allow it.

Earlier runs of the same graph, whatever its values are, say how long it will run: those of the
member, or else anybody's. The decision is made in the transaction that stores the job, or lets it
be sent, so that two jobs at once do not spend the same credit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from proxy.costs.budgets import Budgets, Shortfall
from proxy.costs.job_cost import JobCost, JobRun, Pricing, seconds_cost
from proxy.jobs.models import Job
from proxy.sharing.turns import Turns
from proxy.storage.database import UnitRefusedError
from proxy.storage.spending import Spending
from proxy.translate.graph_shape import shape_of
from proxy.translate.jobs import has_more_values, reachable

#: How long a graph is expected to run that has never run (ms).
UNKNOWN_MS = 10_000

#: Maximum number of values of a graph whose prices are computed on the event loop: usual
#: expressions take 0.3 ms for the first node of a class and 0.05 ms for others.
_MAX_VALUES_AT_ONCE = 100
#: Where a job is expected to run whose member has no account now: it costs what others cost.
_UNKNOWN_ACCOUNT = "unknown"


class OverBudgetError(UnitRefusedError):
    """Raised when a job would exceed a hard budget beside what its member has spent. With
    `is_guess` no job has shown yet how long such a graph runs."""

    def __init__(self, shortfall: Shortfall, spending: Spending, *, is_guess: bool) -> None:
        super().__init__(f"the budget {shortfall.budget.name} is exceeded")
        self.shortfall = shortfall
        self.spending = spending
        self.is_guess = is_guess


class JobEstimate(Struct, frozen=True):
    """What a job is expected to cost, in parts.

    `shape` is that of its graph. With `is_guess` no job has shown yet how long such a graph runs.
    `all_known` says that no node can have a price that nobody knows.
    """

    cost: JobCost
    shape: str | None = None
    is_guess: bool = False
    all_known: bool = True

    @property
    def partner_nodes(self) -> int:
        """What the partner nodes cost, in millionths of a credit."""
        return sum(charge.amount for charge in self.cost.charges if charge.node_class)


class BudgetDecision(Struct, frozen=True):
    """The decision on a job (see `proxy.storage.spending.Decision`) of a member with `budgets`.

    It counts what all jobs that have not ended are expected to cost; with `reserved` instead that.
    """

    day: str
    budgets: Budgets
    job: JobEstimate
    reserved: int | None = None

    @property
    def estimate(self) -> int:
        """What the job is expected to cost, in millionths of a credit."""
        return self.job.cost.amount

    def check(self, spending: Spending) -> None:
        """Check that the budgets allow the job. Raises `OverBudgetError`."""
        if self.reserved is not None:
            spending = replace(spending, reserved=self.reserved)
        shortfall = self.budgets.shortfall(spending, self.estimate)
        if shortfall is not None:
            raise OverBudgetError(shortfall, spending, is_guess=self.job.is_guess)


@dataclass(eq=False, repr=False)
class JobEstimator:
    """Estimates jobs. `allowed` returns the accounts of a member, `typical` how long a member's
    graphs of a shape run (ms, `None` if that is not known)."""

    pricing: Pricing
    allowed: Callable[[str], Collection[str]]
    typical: Callable[[str, str | None], float | None]
    turns: Turns

    async def estimate(self, job: Job, account: str = "") -> JobEstimate:
        """Return what a job is expected to cost on an account, or on the dearest one of its
        member."""
        work = partial(self._estimate, job, account)
        if has_more_values(job.graph, _MAX_VALUES_AT_ONCE):
            return await self.turns.run(job.member, work)
        return work()

    def running_cost(self, job: Job) -> int:
        """Return what the running time of a job with the same shape is expected to cost."""
        return seconds_cost(self._ms(job.member, job.shape), self._rate(job.member))

    def _estimate(self, job: Job, account: str) -> JobEstimate:
        needed = reachable(job.graph, job.outputs_to_execute or None)
        graph = {node_id: node for node_id, node in job.graph.items() if node_id in needed}
        shape = shape_of(job.graph)
        run = JobRun(graph, account, self._ms(job.member, shape), ran=graph.keys)
        cost = self.pricing.cost_at(run, self._rate(job.member, account))
        return JobEstimate(
            cost,
            shape,
            is_guess=self.typical(job.member, shape) is None,
            all_known=cost.source != "unknown" and self.pricing.knows_all(graph),
        )

    def _ms(self, member: str, shape: str | None) -> int:
        typical_ms = self.typical(member, shape)
        return UNKNOWN_MS if typical_ms is None else round(typical_ms)

    def _rate(self, member: str, account: str = "") -> int:
        return self.pricing.dearest_rate([account] if account else self.allowed(member))
