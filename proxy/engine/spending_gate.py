"""Asks the hard budgets of a member again when a job of its is about to be sent.

What was expected of a job when it was accepted may have proved wrong since. Of the jobs that were
sent, all but one are counted with what they may cost at most, so that a budget is passed by one job
at most, whatever the others cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from msgspec import Struct
from msgspec.structs import replace

from proxy import clock
from proxy.costs.budgets import Budget, Budgets, renewal
from proxy.costs.job_cost import seconds_cost
from proxy.engine.accounts import Account
from proxy.engine.run_times import RunTimes
from proxy.engine.term import Term
from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.estimates import JobEstimator, running_cost
from proxy.jobs.models import Job, JobState
from proxy.members.accounting import Limiter
from proxy.storage.database import StorageError
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.spending import Spending
from proxy.storage.usage import day_of
from proxy.translate.errors import LocalError
from proxy.translate.plans import TIER_MINUTES

log = structlog.get_logger(__name__)

#: Minutes that a job may run where the plan does not tell.
_MAX_MINUTES = max(TIER_MINUTES.values())
#: What a job may cost at most whose partner nodes have unknown prices, in millionths of a credit:
#: more than any budget.
_UNBOUNDED = 2**50
#: Seconds after which a job is tried again that would exceed a budget: that may be another by then.
_RETRY_INTERVAL = 60.0
#: The same for one that waits for others of its member, whose ends are the usual reason to try.
_RETRY_BESIDE = 2.0


class Shortfall(Struct, frozen=True):
    """Why a job cannot be sent now: what is `left` of a budget, as far as is known for certain, or
    `None` if that depends on the jobs that were sent."""

    budget: Budget
    left: int | None


class JobClaim(Struct, frozen=True):
    """The claim of a job on its member's budgets (see `proxy.storage.spending.Claim`)."""

    member: str
    order: int
    day: str
    estimate: int
    ceiling: int
    budgets: Budgets

    def refusal(self, spending: Spending) -> Shortfall | None:
        """Return which budget the job would exceed, alone or beside the others."""
        alone = replace(spending, reserved=0)
        budget = self.budgets.exceeded_by(alone, self.estimate)
        if budget is not None:
            return Shortfall(budget, budget.left(alone))
        budget = self.budgets.exceeded_by(spending, self.estimate)
        return None if budget is None else Shortfall(budget, None)


class ClaimRefusedError(Exception):
    """Raised for a job that is expected to cost `estimate` now, of which a budget has only so much
    `left` (see `Shortfall`). It may be tried again in `wait` seconds, unless there is a
    `refusal`."""

    def __init__(
        self, estimate: int, left: int | None, wait: float, refusal: LocalError | None = None
    ) -> None:
        super().__init__("over budget")
        self.estimate = estimate
        self.left = left
        self.wait = wait
        self.refusal = refusal


@dataclass(eq=False, repr=False)
class SpendingGate:
    """What jobs pass before they are sent. With `refuses` a job that a budget does not allow is
    refused, without it waits until the budget allows it. `refusals` takes note of the first."""

    jobs: JobRepository
    term: Term
    limiter: Limiter
    estimator: JobEstimator
    run_times: RunTimes
    refusals: BudgetRefusals
    refuses: bool = False

    async def enter(self, job: Job, account: Account) -> None:
        """Claim what a job may cost that is about to be sent to an account. Raises
        `ClaimRefusedError`, `StorageError`."""
        budgets = self.limiter.budgets(job.member)
        if not any(budget.hard for budget in budgets.all):
            return
        at = clock.time()
        costs = await self.estimator.reservation(job, budgets)
        rate = self.estimator.pricing.dearest_rate([account.name])
        partner = costs.partner_nodes
        ceiling = seconds_cost((account.plan.minutes or _MAX_MINUTES) * 60_000, rate)
        claim = JobClaim(
            job.member,
            job.order,
            day_of(at),
            running_cost(self.run_times.typical(job.member, costs.shape), rate) + partner.amount,
            ceiling + partner.amount if partner.all_known else _UNBOUNDED,
            budgets,
        )
        refused = await self.jobs.claim(
            claim, JobState.SUBMITTING.value, EngineWrite(self.term.fence)
        )
        if refused is not None:
            if refused.left is not None:
                spent = refused.budget.limit - refused.left
                await self.refusals.add(job.member, refused.budget, spent)
            raise self._error(claim.estimate, refused, at)

    def _error(self, estimate: int, refused: Shortfall, at: float) -> ClaimRefusedError:
        budget, left = refused.budget, refused.left
        log.info("job_delayed", budget=budget.name, estimate=estimate)
        if left is None:
            return ClaimRefusedError(estimate, None, _RETRY_BESIDE)
        refusal = None
        if self.refuses:
            refusal = self.limiter.over_budget(budget, left=left, estimate=estimate)
        wait = min(renewal(budget.period, at).timestamp() - at, _RETRY_INTERVAL)
        return ClaimRefusedError(estimate, left, wait, refusal)

    async def learn(self, job: Job) -> int | None:
        """Let the member's waiting jobs with the shape of one that has ended be expected to run as
        long; return what that costs, `None` if nothing follows it."""
        if not job.shape or not self.limiter.budgets(job.member).all:
            return None
        accounts = self.estimator.allowed(job.member)
        rate = self.estimator.pricing.dearest_rate(accounts)
        time = running_cost(self.run_times.typical(job.member, job.shape), rate)
        try:
            await self.jobs.reestimate(job.member, job.shape, time)
        except StorageError as error:
            log.warning("estimates_save_failed", member=job.member, error=str(error))
        return time
