"""Asks the hard budgets of a member again when a job of its is about to be sent.

What was expected of a job when it was accepted may have proved wrong since. Of the jobs that were
sent, all but one are counted with what they may cost at most, so that a budget is passed by one job
at most, whatever the others cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from proxy.costs.budgets import Shortfall
from proxy.costs.job_cost import seconds_cost
from proxy.engine.accounts import Account
from proxy.engine.live_job import LiveJob
from proxy.engine.member_spending import UNBOUNDED
from proxy.engine.outcomes import OverBudget
from proxy.engine.scheduler import Scheduler
from proxy.engine.term import Term
from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.estimates import BudgetDecision, JobEstimator, OverBudgetError
from proxy.jobs.models import JobState
from proxy.members.accounting import Limiter
from proxy.runtime import clock
from proxy.storage.database import StorageError
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.usage import day_of
from proxy.translate.plans import TIER_MINUTES

log = structlog.get_logger(__name__)

#: Minutes that a job may run if the plan does not say.
_MAX_MINUTES = max(TIER_MINUTES.values())


@dataclass(eq=False, repr=False)
class SpendingGate:
    """What jobs pass before they are sent. One that a budget does not allow waits in the queue of
    the `scheduler`; `refusals` takes note of the first."""

    jobs: JobRepository
    term: Term
    limiter: Limiter
    estimator: JobEstimator
    refusals: BudgetRefusals
    scheduler: Scheduler

    async def enter(self, job: LiveJob, account: Account) -> OverBudget | None:
        """Claim what a job may cost that is about to be sent to an account; return why it is not
        sent, if a budget does not allow it. Raises `StorageError`."""
        budgets = self.limiter.budgets(job.member)
        if not budgets.any_hard:
            self.scheduler.claim(job, 0)
            return None
        estimate = await self.estimator.estimate(job, account.name)
        job.estimate = estimate.cost.amount
        ceiling = UNBOUNDED
        if estimate.all_known:
            rate = self.estimator.pricing.dearest_rate([account.name])
            longest = seconds_cost((account.plan.minutes or _MAX_MINUTES) * 60_000, rate)
            ceiling = longest + estimate.partner_nodes
        at, reserved = clock.time(), self.scheduler.claim(job, ceiling)
        decision = BudgetDecision(day_of(at), budgets, estimate, reserved)
        state, also = JobState.SUBMITTING.value, EngineWrite(self.term.fence)
        try:
            spent = await self.jobs.claim(job.member, job.order, state, decision, ceiling, also)
        except OverBudgetError as error:
            self.scheduler.spent(job.member, error.spending, at)
            return await self._refused(job, error.shortfall)
        self.scheduler.spent(job.member, spent, at)
        return None

    async def _refused(self, job: LiveJob, shortfall: Shortfall) -> OverBudget:
        log.info(
            "job_delayed",
            budget=shortfall.budget.name,
            estimate=shortfall.estimate,
            reserved=shortfall.reserved,
        )
        if shortfall.is_certain:
            await self.refusals.add(job.member, shortfall)
        return OverBudget()

    def running_cost(self, job: LiveJob) -> int | None:
        """Return what jobs of a member with the shape of one that has ended are expected to cost
        for their time, `None` if nothing follows it."""
        if not job.shape or not self.limiter.budgets(job.member).all:
            return None
        return self.estimator.running_cost(job)

    async def save_running_cost(self, job: LiveJob, cost: int) -> None:
        """Let the waiting jobs of a member with the same shape as this one be expected to cost so
        much for their time."""
        try:
            await self.jobs.reestimate(job.member, job.shape, cost)
        except StorageError as error:
            log.warning("estimates_save_failed", member=job.member, error=str(error))
