"""What the engine knows of the spending of members with hard budgets: which of their jobs wait for
that follows from it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from msgspec.structs import replace

from proxy.costs.budgets import Budgets, Shortfall, renewal
from proxy.costs.credits import credits_text
from proxy.engine.live_job import LiveJob
from proxy.runtime import clock
from proxy.storage.spending import Spending

#: What a job may cost at most whose partner nodes have unknown prices, in millionths of a credit:
#: more than any budget.
UNBOUNDED = 2**50
#: Maximum seconds until it is read again what a member has spent: by then the clock may have been
#: set to another day.
_LONGEST = 60.0


class MemberSpending:
    """What members have spent at least, as the storage said last, and what their jobs that were
    sent may cost at most.

    `budgets` returns those of a member, `monotonic` the time in seconds.
    """

    def __init__(
        self,
        budgets: Callable[[str], Budgets] = lambda _: Budgets(),
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._budgets = budgets
        self._monotonic = monotonic
        #: By member, each until a time of the clock.
        self._spent: dict[str, tuple[Spending, float]] = {}
        #: By member: its jobs that were sent, or are about to be, and what each may cost at most.
        self._ceilings: defaultdict[str, dict[LiveJob, int]] = defaultdict(dict)
        #: The job of each member that has left the queue and not claimed what it may cost.
        self._asking: dict[str, LiveJob] = {}

    def asks(self, job: LiveJob) -> None:
        """Note that a job leaves the queue: others of its member stay until its claim, so that they
        do not leave together and come back."""
        if self._budgets(job.member).any_hard:
            self._asking[job.member] = job

    def is_asking(self, member: str) -> bool:
        """Return whether a job of the member is about to claim what it may cost."""
        return member in self._asking

    def claim(self, job: LiveJob, ceiling: int) -> int:
        """Note what a job may cost at most that is about to be sent; return what the others of its
        member may."""
        self._answered(job)
        ceilings = self._ceilings[job.member]
        ceilings[job] = ceiling
        return sum(ceilings.values()) - ceiling

    def release(self, job: LiveJob) -> bool:
        """Note that a job costs nothing more; return whether others may have waited for that."""
        was_asking = self._answered(job)
        if job not in self._ceilings.get(job.member, ()):
            return was_asking
        del self._ceilings[job.member][job]
        if not self._ceilings[job.member]:
            del self._ceilings[job.member]
        return True

    def learned(self, member: str, spent: Spending, at: float) -> None:
        """Note what a member has spent, as the storage says `at` a time in seconds since 1970."""
        lasts = min(renewal("day", at).timestamp() - at, _LONGEST)
        self._spent[member] = (spent, self._monotonic() + lasts)

    def shortfall(self, job: LiveJob) -> Shortfall | None:
        """Return why a job has to wait, as far as is known."""
        budgets = self._budgets(job.member)
        if not budgets.any_hard:
            return None
        spent, until = self._spent.get(job.member, (Spending(), 0.0))
        if self._monotonic() >= until:
            spent = Spending()
        reserved = sum(self._ceilings.get(job.member, {}).values())
        return budgets.shortfall(replace(spent, reserved=reserved), job.estimate)

    def explained(self, job: LiveJob, of_next: Shortfall | None = None) -> str | None:
        """Return the sentence that tells a client what its job waits for. `of_next` is the
        shortfall of the member's next job, behind which it may wait."""
        shortfall = self.shortfall(job) or of_next
        return None if shortfall is None else waits_for(shortfall, clock.time())

    def ends(self) -> list[float]:
        """Return when what is known of members is too old."""
        return [until for _, until in self._spent.values()]

    def _answered(self, job: LiveJob) -> bool:
        if self._asking.get(job.member) is not job:
            return False
        del self._asking[job.member]
        return True


def waits_for(shortfall: Shortfall, at: float) -> str:
    """Return the sentence that tells a client what its job waits for, `at` a time in seconds since
    1970."""
    budget = shortfall.budget
    unspent = credits_text(max(0, shortfall.unspent))
    of_all = f"the hard budget of {credits_text(budget.limit)} a {budget.period}"
    if shortfall.is_certain:
        renews = f"{renewal(budget.period, at):%Y-%m-%d %H:%M} UTC"
        return (
            f"This job is expected to cost more than the {unspent} that are left of {of_all}. It "
            f"starts when the budget renews, at {renews}, or is raised."
        )
    if shortfall.reserved >= UNBOUNDED:
        return (
            "Another job of this member runs a partner node without a known price. This job "
            f"starts when that one has ended: {unspent} of {of_all} are left."
        )
    return (
        "The running jobs of this member cost at most "
        f"{credits_text(shortfall.reserved)}, if they run as long as the plan lets them, and "
        f"{unspent} of {of_all} are left. This job starts when one of them has ended."
    )
