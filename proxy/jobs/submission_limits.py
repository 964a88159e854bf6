"""Whether a member may submit a job now: its limits and budgets, before and in the storage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.jobs.budget_notices import BudgetRefusals
from proxy.jobs.conversion import used
from proxy.jobs.estimates import BudgetDecision, JobEstimate, JobEstimator, OverBudgetError
from proxy.jobs.models import Job
from proxy.jobs.views import LiveJobs
from proxy.members.accounting import Limiter
from proxy.members.member import Member
from proxy.runtime import clock
from proxy.sharing.pool import Pool
from proxy.storage.conditions import Conditions, DayFullError, Numbering, QueueFullError
from proxy.storage.database import BusyError
from proxy.storage.jobs import JobRepository
from proxy.storage.usage import day_of
from proxy.translate.errors import LocalError

#: Jobs below its limit from which a member's waiting jobs are counted exactly.
_COUNTED = 1_000
#: `Retry-After` in seconds where there is no room for a payload.
_RETRY_FULL = 10.0
#: Bytes of what clients have sent for all jobs that wait, run or are in the history, and those of a
#: member that count as little.
MAX_PAYLOAD_BYTES, MIN_PAYLOAD_BYTES = 1024 * 1024 * 1024, 32 * 1024 * 1024


@dataclass(eq=False, repr=False)
class SubmissionLimits:
    """The limits and budgets of members.

    `member` gives the limits of a member, and the `limiter` what it is told when one is reached.
    The `estimator` says what jobs of members with budgets will cost, `refusals` get the first one
    that a budget refuses. `live` has the jobs that are known here. The bytes of what
    clients have sent are shared as `payloads` says.
    """

    repository: JobRepository
    live: LiveJobs
    member: Callable[[str], Member]
    limiter: Limiter
    estimator: JobEstimator
    refusals: BudgetRefusals
    payloads: Pool = field(default_factory=lambda: Pool(MAX_PAYLOAD_BYTES, MIN_PAYLOAD_BYTES))

    async def check(self, member: str) -> None:
        """Check whether a member may submit now. Raises `LocalError`, and `BusyError` while jobs
        come faster than they can be stored."""
        if self.repository.database.busy:
            raise BusyError("too many jobs wait to be stored")
        who = self.member(member)
        if self._may_be_full(who) or who.limits.jobs_per_day is not None:
            waiting, submitted = await self.repository.used(member, day_of(clock.time()))
            self.limiter.admit(member, waiting=waiting, submitted=submitted)

    def _may_be_full(self, member: Member) -> bool:
        """Return whether the storage has to count the member's waiting jobs.

        It does not while much fewer are known here than a large limit allows: to count thousands
        costs more than to store a job.
        """
        limit, live = member.limits.max_queued, self.live.of(member.name)
        return limit is not None and len(live.jobs) + live.answering >= limit - _COUNTED

    def decision(self, job: Job, estimate: JobEstimate) -> BudgetDecision:
        """Return the decision of the member's budgets on a job."""
        day, budgets = day_of(job.created_at / 1000), self.limiter.budgets(job.member)
        return BudgetDecision(day, budgets, estimate)

    async def conditions(self, job: Job, numbering: Numbering | None) -> Conditions:
        """Return under which conditions the storage takes a job, which gets what is known of its
        cost."""
        decision = None
        if self.limiter.budgets(job.member).all:
            estimate = await self.estimator.estimate(job)
            decision = self.decision(job, estimate)
            job.shape, job.partner_nodes = estimate.shape or "", estimate.partner_nodes
        member = self.member(job.member)  # its limits may have changed during the checks
        return Conditions(
            usage=used(job, submitted=1),
            numbering=numbering,
            decision=decision,
            max_per_day=member.limits.jobs_per_day,
            max_waiting=member.limits.max_queued if self._may_be_full(member) else None,
            payloads=self.payloads,
        )

    async def refused(
        self, member: str, error: DayFullError | QueueFullError | OverBudgetError
    ) -> LocalError:
        """Return what the client is told of a job that the storage does not take, once a refusal of
        a budget has its notice."""
        if isinstance(error, OverBudgetError):
            await self.refusals.add(member, error.shortfall)
        return self.refusal(member, error)

    def refusal(
        self, member: str, error: DayFullError | QueueFullError | OverBudgetError
    ) -> LocalError:
        """Return what the client is told of a job that a limit or a budget refuses."""
        match error:
            case DayFullError():
                return self.limiter.day_is_full(member)
            case QueueFullError(waiting=waiting):
                return self.limiter.queue_is_full(member, waiting)
        return self.limiter.over_budget(error.shortfall, is_guess=error.is_guess)


def payloads_full() -> LocalError:
    """Return what the client is told of a job for whose payload there is no room."""
    return LocalError(
        "payloads_full",
        "The data of waiting and running jobs has reached its limit. Submit this job again when "
        "some have ended, cancel some, or upload large values, such as pictures, as files.",
        kind="rate_limited",
        retry_after=_RETRY_FULL,
    )
