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

from proxy.costs.budgets import Budget, Budgets, renewal
from proxy.costs.credits import credits_text
from proxy.costs.job_cost import seconds_cost
from proxy.engine.accounts import Account
from proxy.engine.outcomes import OverBudget
from proxy.engine.run_times import RunTimes
from proxy.engine.term import Term
from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.estimates import JobEstimator, running_cost
from proxy.jobs.models import Job, JobState
from proxy.members.accounting import Limiter
from proxy.runtime import clock
from proxy.storage.database import StorageError
from proxy.storage.jobs import EngineWrite, JobRepository
from proxy.storage.spending import Spending
from proxy.storage.usage import day_of
from proxy.translate.plans import TIER_MINUTES

log = structlog.get_logger(__name__)

#: Minutes that a job may run if the plan does not say.
_MAX_MINUTES = max(TIER_MINUTES.values())
#: What a job may cost at most whose partner nodes have unknown prices, in millionths of a credit:
#: more than any budget.
_UNBOUNDED = 2**50
#: Seconds after which a job is tried again that would exceed a budget: that may be another by then.
_RETRY_INTERVAL = 60.0
#: The same for one that waits for others of its member, whose ends are the usual reason to try.
_RETRY_BESIDE = 2.0


class Shortfall(Struct, frozen=True):
    """Why a job cannot be sent now: only so much is `left` of a budget, of which the jobs that were
    sent may cost what is `reserved`; 0 if the job costs too much whatever becomes of those."""

    budget: Budget
    left: int
    reserved: int = 0


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
        if budget is None:
            return None
        return Shortfall(budget, budget.left(alone), spending.reserved)


@dataclass(eq=False, repr=False)
class SpendingGate:
    """What jobs pass before they are sent. A job that a budget does not allow waits until it
    does. `refusals` takes note of the first."""

    jobs: JobRepository
    term: Term
    limiter: Limiter
    estimator: JobEstimator
    run_times: RunTimes
    refusals: BudgetRefusals

    async def enter(self, job: Job, account: Account) -> OverBudget | None:
        """Claim what a job may cost that is about to be sent to an account; return why it is not
        sent, if a budget does not allow it. Raises `StorageError`."""
        budgets = self.limiter.budgets(job.member)
        if not any(budget.hard for budget in budgets.all):
            return None
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
        if refused is None:
            return None
        if not refused.reserved:
            spent = refused.budget.limit - refused.left
            await self.refusals.add(job.member, refused.budget, spent)
        return self._outcome(claim.estimate, refused, at)

    def _outcome(self, estimate: int, refused: Shortfall, at: float) -> OverBudget:
        budget, left = refused.budget, refused.left
        log.info("job_delayed", budget=budget.name, estimate=estimate, reserved=refused.reserved)
        message = waits_for(refused, at)
        if refused.reserved:
            return OverBudget(estimate, None, _RETRY_BESIDE, message)
        wait = min(renewal(budget.period, at).timestamp() - at, _RETRY_INTERVAL)
        return OverBudget(estimate, left, wait, message)

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


def waits_for(refused: Shortfall, at: float) -> str:
    """Return to the client of a job what it waits for, `at` a time in seconds since 1970."""
    budget = refused.budget
    left = credits_text(max(0, refused.left))
    of_all = f"the hard budget of {credits_text(budget.limit)} a {budget.period}"
    if refused.reserved >= _UNBOUNDED:
        return (
            "Another job of this member runs a partner node without a known price. This job "
            f"starts when that one has ended: {left} of {of_all} are left."
        )
    if refused.reserved:
        return (
            "The running jobs of this member cost at most "
            f"{credits_text(refused.reserved)}, if they run as long as the plan lets them, and "
            f"{left} of {of_all} are left. This job starts when one of them has ended."
        )
    return (
        f"This job is expected to cost more than the {left} that are left of {of_all}. It starts "
        f"when the budget renews, at {renewal(budget.period, at):%Y-%m-%d %H:%M} UTC, or is raised."
    )
