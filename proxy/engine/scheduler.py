"""Which job goes next and to which account, and who has a slot.

Decides without I/O and without a clock of its own. What it decides stands on the job: `account`,
`charge` and `slot`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

import structlog

from proxy.costs.budgets import Shortfall
from proxy.engine.accounts import PASSING, Account, Reason
from proxy.engine.fair_share import FairShare, JobQueue
from proxy.engine.live_job import LiveJob, SlotState
from proxy.engine.member_spending import MemberSpending
from proxy.engine.memory_waits import MemoryWaits
from proxy.engine.outcomes import Elsewhere, Outcome, OutOfMemory, Refused, Sent
from proxy.jobs.models import FairBy, JobState
from proxy.members.member import Member
from proxy.storage.shares import Shares
from proxy.storage.spending import Spending
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Seconds until jobs are tried again after a failure of the proxy itself (a full disk).
_OWN_FAULT_PAUSE = 2.0


class TurnSignal(Protocol):
    """What a dispatcher waits for: an `asyncio.Event`."""

    def set(self) -> None:
        """Let it go on."""

    def clear(self) -> None:
        """Let it wait for the next time."""

    async def wait(self) -> object:
        """Wait for it."""


class Scheduler:
    """Slots, fair shares and the queue together.

    A job has its slot from the moment at which its turn comes until the cloud has reported its
    end. The health of the accounts follows what happens to jobs. `member` gives weight and limits
    of a member, `clock` the monotonic time in seconds; `turn` is set when a waiting job may have
    got its turn, or has left. `spending` says what waits for a hard budget. `version` grows with
    every change of what waits, and why. Waiting jobs up to `held_order` stay until an admin
    releases them.
    """

    def __init__(
        self,
        accounts: Mapping[str, Account],
        member: Callable[[str], Member],
        fair_by: FairBy,
        *,
        clock: Callable[[], float],
        turn: TurnSignal,
        spending: MemberSpending | None = None,
    ) -> None:
        self.queue = JobQueue()
        self.shares = FairShare(fair_by)
        self.member = member
        self.version = 0
        self.paused_until = 0.0
        self.held_order = 0
        self._accounts = accounts
        self._clock = clock
        self.turn = turn
        self._accounts_shares = FairShare()
        #: The jobs with slots, by their accounts.
        self._placed: defaultdict[str, dict[LiveJob, None]] = defaultdict(dict)
        #: How many slots each member has, and each client by its member and `client_id`.
        self._on_cloud: Counter[str] = Counter()
        self._busy: Counter[tuple[str, str | None]] = Counter()
        self.spending = spending or MemberSpending()
        self._memory = MemoryWaits(clock)

    def changed(self) -> None:
        """Note that a waiting job may have got its turn, or waits for another reason."""
        self.version += 1
        if len(self.queue):
            self.turn.set()

    # --- what waits ------------------------------------------------------------------------

    def enqueue(self, job: LiveJob) -> None:
        """Let a job wait for its turn. What its client sent is in the storage alone meanwhile."""
        job.content = None
        job.release_memory()
        self.queue.add(job)
        self.changed()

    def dequeue(self, job: LiveJob) -> None:
        """Take a waiting job out of the queue; those behind it move up."""
        self.queue.remove(job)
        self.version += 1
        self.turn.set()

    # --- who has a slot --------------------------------------------------------------------

    def used(self, account: str) -> int:
        """Return how many slots of the account are taken."""
        return len(self._placed[account])

    def placed(self, account: str) -> Collection[LiveJob]:
        """Return the jobs with slots of the account, now and later."""
        return self._placed[account].keys()

    def keep(self, job: LiveJob) -> None:
        """Note a job that has had its slot since before a restart."""
        if not _is_placed(job):
            self._set_slot(job, SlotState.STORED)
        if job.state is JobState.RUNNING:
            self.started(job)

    def assign_at_once(self, job: LiveJob) -> bool:
        """Give a new job a slot if one is free for it now; return whether it has one.

        An account that rests is tried where no other one is well, so that a refusal is the answer
        to the client. Jobs of the member that wait for something else are overtaken.
        """
        account = self._account_for(job, probing=True)
        if account is None or self.waits_for_client(job):
            return False
        if self.spending.shortfall(job) is not None:
            return False
        self.assign(job, account)
        return True

    def next(self) -> LiveJob | None:
        """Give the waiting job whose turn it is a slot, and return it; `None` if none may go."""
        ready = {}
        for member in self.queue.members():
            if (candidate := self._candidate(member)) is not None:
                ready[member] = candidate
        chosen = self.shares.choose({member: job.order for member, (job, _) in ready.items()})
        if chosen is None:
            return None
        job, account = ready[chosen]
        self.queue.remove(job)
        self.spending.asks(job)
        self._memory.asks(job.member)
        self.assign(job, account)
        return job

    def assign(self, job: LiveJob, account: Account) -> None:
        """Give the job whose turn it is a slot on an account."""
        job.account = account.name
        job.charge = self.shares.charge(job.member, self.member(job.member).weight)
        self._accounts_shares.charge(account.name, 1.0)
        account.health.sent()
        self._set_slot(job, SlotState.GIVEN)
        self.version += 1

    def give_back(self, job: LiveJob) -> None:
        """Take slot and turn from a job that was not sent after all, if it has them."""
        if self.spending.release(job):
            self.changed()
        if _is_placed(job):
            self._leave(job)
            self._accounts[job.account].health.unsettled()
            self.shares.give_back(job.member, self.member(job.member).weight, job.charge)
            job.charge, job.account = 0.0, ""
            self.changed()

    def free(self, job: LiveJob) -> None:
        """Free the slot of a job that no longer runs; does nothing if repeated."""
        if _is_placed(job):
            self._leave(job)
            self._accounts[job.account].health.eased(self._clock())
            self.changed()

    def started(self, job: LiveJob) -> None:
        """Note that a job runs: its account may have more slots than was known."""
        if not _is_placed(job):
            return
        placed = self._placed[job.account]
        running = sum(other.state is JobState.RUNNING for other in placed)
        if self._accounts[job.account].slots.running(running):
            self.changed()

    def ended(self, job: LiveJob, seconds: float) -> None:
        """Note for how many seconds a job ran."""
        if job.charge and self.shares.by == "time":
            self.shares.ended(job.member, self.member(job.member).weight, job.charge, seconds)

    def _set_slot(self, job: LiveJob, slot: SlotState) -> None:
        job.slot = slot
        self._placed[job.account][job] = None
        self._on_cloud[job.member] += 1
        self._busy[job.member, job.client_id] += 1

    def _leave(self, job: LiveJob) -> None:
        job.slot = SlotState.NONE
        del self._placed[job.account][job]
        self._on_cloud[job.member] -= 1
        self._busy[job.member, job.client_id] -= 1
        if not self._busy[job.member, job.client_id]:
            del self._busy[job.member, job.client_id]

    # --- what happens to accounts ----------------------------------------------------------

    def pause(self) -> None:
        """Stop dispatching for a moment."""
        self.paused_until = self._clock() + _OWN_FAULT_PAUSE
        self.changed()

    def judge(self, job: LiveJob, outcome: Outcome) -> None:
        """Note what a submission shows about the health of the account."""
        match outcome:
            case Sent() | Refused(by_cloud=True):
                health = self._accounts[job.account].health
                was_well = health.well
                health.renewed()
                if not was_well:
                    self.changed()
            case OutOfMemory():
                self._memory.refused(job.member)
            case Elsewhere(refusal=refusal, fault=fault, retry_after=retry_after):
                self._suspend(job.account, fault, refusal, retry_after)

    def set_aside(self, account: str, fault: Reason, refusal: LocalError) -> None:
        """Note that an account takes no jobs, although no job has shown it."""
        self._suspend(account, fault, refusal)
        self.changed()

    def recovered(self, account: str) -> None:
        """Note that an account takes jobs again."""
        self._accounts[account].health.renewed()
        self.changed()

    def key_accepted(self, account: str) -> None:
        """Note that an account accepts its key again."""
        if self._accounts[account].health.reason == "dead_key":
            self.recovered(account)

    def explained(self, account: Account) -> str | None:
        """Return why an account that rests takes no job, with its name and since when for what
        passes by itself."""
        health = account.health
        if health.reason not in PASSING:
            return None if health.refusal is None else health.refusal.message
        minutes = int((self._clock() - health.since) / 60)
        what = "is starting" if health.reason == "starting" else "has a full queue"
        return f"{account.name} {what}{f', {minutes} min' if minutes else ''}"

    def _suspend(
        self, account: str, fault: Reason, refusal: LocalError, retry_after: float | None = None
    ) -> None:
        health = self._accounts[account].health
        was_well = health.well
        health.failed(fault, self._clock(), retry_after, refusal)
        if was_well:
            log.warning("account_suspended", account=account, reason=fault)

    def next_try(self, after: float) -> float | None:
        """Return when jobs may go again that waited at the time `after` for an account that rests,
        for a budget or for the end of the pause; `None` where none did."""
        rests = [
            account.health.until for account in self._accounts.values() if not account.health.well
        ]
        times = (*rests, *self.spending.ends(), *self._memory.ends(), self.paused_until)
        return min((at for at in times if at > after), default=None)

    # --- what is kept ----------------------------------------------------------------------

    def shares_of(self, jobs: Collection[LiveJob]) -> Shares:
        """Return the shares of these jobs' members and the learned slots, to be stored with them.

        Other jobs whose slots the storage does not know yet have not used a turn, as far as a
        restart is concerned: they wait.
        """
        for job in jobs:
            if job.slot is SlotState.GIVEN:
                job.slot = SlotState.STORED
        unsaved = [
            job for placed in self._placed.values() for job in placed if job.slot is SlotState.GIVEN
        ]
        shares = {}
        for member in dict.fromkeys(job.member for job in jobs):
            unused = sum(job.charge for job in unsaved if job.member == member)
            shares[member] = self.shares.state_of(member, unused / self.member(member).weight)
        learnt = {
            name: account.slots.count
            for name, account in self._accounts.items()
            if not account.slots.fixed
        }
        return Shares(self.shares.now, shares, learnt)

    def restore(self, kept: Shares) -> None:
        """Continue where `shares_of` left off."""
        self.shares.restore(kept.now, kept.members)
        for name, learnt in kept.slots.items():
            if name in self._accounts:
                self._accounts[name].slots.restore(learnt)

    # --- who may go where ------------------------------------------------------------------

    def _candidate(self, member: str) -> tuple[LiveJob, Account] | None:
        """Return the member's next job and its account: the first job, unless its client is busy or
        it waits for accounts with its models."""
        if self.spending.is_asking(member):
            return None
        found: dict[frozenset[str] | None, Account | None] = {}
        for job in self.queue.of(member):
            if self.is_held(job):
                continue
            shortfall = self.spending.shortfall(job)
            if shortfall is not None:
                if shortfall.is_certain:
                    continue
                return None
            accounts = None if job.needs is None else job.needs.accounts
            if accounts not in found:
                found[accounts] = self._account_for(job)
            account = found[accounts]
            if account is None:
                if accounts is None:
                    return None
                continue
            if not self.waits_for_client(job):
                return job, account
        return None

    def _account_for(self, job: LiveJob, *, probing: bool = False) -> Account | None:
        """Return the account that a job may be sent to now, if any.

        With `probing` an account that rests is tried, if none is well.
        """
        if self.limited(job.member) is not None:
            return None
        allowed, at = self.preferred(job), self._clock()
        free = [account for account in allowed if self.used(account.name) < account.limit]
        ready = [account for account in free if account.health.ready(at)]
        if not ready and probing and not any(account.health.well for account in allowed):
            ready = free
        positions = {account.name: position for position, account in enumerate(ready)}
        name = self._accounts_shares.choose(positions)
        return None if name is None else self._accounts[name]

    def waits_for_client(self, job: LiveJob) -> bool:
        """Return whether a job has to wait for another one of its client."""
        return job.one_at_a_time and (job.member, job.client_id) in self._busy

    def is_held(self, job: LiveJob) -> bool:
        """Return whether a waiting job is from a backup that was restored, and not released."""
        return 0 < job.order <= self.held_order

    def hold(self, order: int) -> None:
        """Hold the waiting jobs up to an `order`, and no others."""
        if order != self.held_order:
            self.held_order = order
            self.changed()

    def limited(self, member: str) -> str | None:
        """Return which limit of its own lets no job of the member go, `None` if none does."""
        who = self.member(member)
        limit = who.limits.max_running
        if who.disabled:
            return "disabled"
        if limit is not None and self._on_cloud[member] >= limit:
            return "limit"
        if self._memory.waits(member):
            return "memory"
        return "ceiling" if self.waits_for_ends(member) is not None else None

    def waits_for_ends(self, member: str) -> Shortfall | None:
        """Return why the next job of the member has to wait until it is known what others cost, if
        it has to: none overtakes it."""
        for job in self.queue.of(member):
            if self.is_held(job):
                continue
            shortfall = self.spending.shortfall(job)
            if shortfall is None or not shortfall.is_certain:
                return shortfall
        return None

    def claim(self, job: LiveJob, ceiling: int) -> int:
        """Note what a job may cost at most that is about to be sent; return what the others of its
        member may."""
        reserved = self.spending.claim(job, ceiling)
        self.changed()
        return reserved

    def spent(self, member: str, spending: Spending, at: float) -> None:
        """Note what a member has spent, as the storage says `at` a time in seconds since 1970."""
        self.spending.learned(member, spending, at)
        self.changed()

    def has_room(self, job: LiveJob) -> None:
        """Note that there is room in memory for a job that is about to be sent."""
        if self._memory.has_room(job.member):
            self.changed()

    def released(self, job: LiveJob) -> None:
        """Note that a job costs nothing more, and holds no memory: others may have waited for
        that."""
        freed = self._memory.freed(job.member)
        if self.spending.release(job) or freed:
            self.changed()

    def allowed(self, member: str) -> list[Account]:
        """Return the accounts that take the member's jobs."""
        return [
            account for account in self._accounts.values() if account.eligibility.allows(member)
        ]

    def usable(self, job: LiveJob) -> list[Account]:
        """Return the accounts that take the member's jobs and have what this one names.

        Where none has it any longer, the cloud decides.
        """
        allowed = self.allowed(job.member)
        if job.needs is None:
            return allowed
        having = [account for account in allowed if account.name in job.needs.accounts]
        return having or [account for account in allowed if account.eligibility.validates]

    def preferred(self, job: LiveJob) -> list[Account]:
        """Return those of the usable accounts that a job is to go to: of those that are well, the
        one that its member's settings name, or else the ones of the lowest rank."""
        usable = self.usable(job)
        well = [account for account in usable if account.health.well] or usable
        named = self.member(job.member).account
        if chosen := [account for account in well if account.name == named]:
            return chosen
        rank = min((account.eligibility.rank for account in well), default=0)
        return [account for account in usable if account.eligibility.rank == rank]

    def has_other(self, job: LiveJob) -> bool:
        """Return whether another account that takes the member's jobs is well."""
        return any(
            account.name != job.account and account.health.well for account in self.usable(job)
        )

    def any_slot(self, accounts: Iterable[Account]) -> bool:
        """Return whether one of the accounts could run one more job at once."""
        return any(self.used(account.name) < account.slots.count for account in accounts)


def _is_placed(job: LiveJob) -> bool:
    """Return whether a job has a slot."""
    return job.slot in (SlotState.GIVEN, SlotState.STORED)
