"""Members whose jobs are held back by a hard budget, or by what their jobs hold in memory.

Once a budget has refused a job of a member, the jobs that it concerns ask again one after the
other, so that those which wait do not leave the queue together and come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxy.engine.outcomes import OverBudget
from proxy.jobs.models import Job
from proxy.runtime.backoff import Backoff

#: Maximum seconds until a job that waits for others asks again although none of them has ended.
_LONGEST = 60.0


@dataclass(slots=True)
class BudgetHold:
    """Jobs of a member that are not sent until a time of the clock, as the newest `refusal` says:
    those that are expected to cost more than is left, or all of them.

    `asking` is the `order` of the one that has left the queue to ask, while it is out of it.
    """

    until: float
    refusal: OverBudget
    failures: int = 1
    asking: int | None = None

    def concerns(self, estimate: int) -> bool:
        """Return whether a job with this estimate is held."""
        left = self.refusal.left
        return left is None or max(1, estimate) > left


class BudgetHolds:
    """The hold of each member that has one, by the monotonic `clock` in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._holds: dict[str, BudgetHold] = {}

    def refused(self, job: Job, refusal: OverBudget) -> None:
        """Hold the jobs of the member that cost more than is left, or all of them."""
        before, failures = self._holds.get(job.member), 1
        if before is not None and before.asking == job.order and refusal.left is None:
            failures = before.failures + 1
        wait = Backoff(refusal.wait, max(refusal.wait, _LONGEST)).whole(failures)
        self._holds[job.member] = BudgetHold(self._clock() + wait, refusal, failures, job.order)

    def holding(self, job: Job) -> OverBudget | None:
        """Return the refusal that holds a job, if one does."""
        hold = self._holds.get(job.member)
        if hold is None or not self._is_shut(hold) or not hold.concerns(job.estimate):
            return None
        return hold.refusal

    def holds_all(self, member: str) -> str | None:
        """Return the reason for which no job of the member goes, if there is one."""
        hold = self._holds.get(member)
        if hold is None or hold.refusal.left is not None or not self._is_shut(hold):
            return None
        return hold.refusal.reason

    def asks(self, job: Job) -> None:
        """Note that a job leaves the queue: if others wait for the same, they stay."""
        hold = self._holds.get(job.member)
        if hold is not None and hold.concerns(job.estimate):
            hold.asking = job.order

    def admitted(self, job: Job) -> bool:
        """Note that the budgets allow a job; return whether another one may ask now."""
        hold = self._holds.get(job.member)
        if hold is None or hold.asking != job.order:
            return False
        hold.asking, hold.failures = None, 0
        if hold.refusal.left is not None:
            del self._holds[job.member]
        return True

    def gave_back(self, job: Job) -> None:
        """Note that a job is not sent after all. One that had been admitted costs nothing now."""
        hold = self._holds.get(job.member)
        if hold is not None and hold.asking == job.order:
            hold.asking = None
        else:
            self.cost_known(job.member)

    def cost_known(self, member: str) -> bool:
        """Note that the cost of a job of the member is known; return whether others waited for
        that."""
        hold = self._holds.get(member)
        if hold is None or hold.refusal.left is not None:
            return False
        waited = hold.until > self._clock()
        hold.until, hold.failures = self._clock(), 0
        return waited

    def clear(self) -> None:
        """End all holds."""
        self._holds.clear()

    def ends(self) -> Iterable[float]:
        """Return when the holds end."""
        return [hold.until for hold in self._holds.values()]

    def _is_shut(self, hold: BudgetHold) -> bool:
        return hold.asking is not None or self._clock() < hold.until
