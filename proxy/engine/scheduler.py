"""Which job goes next and to which account, who has a slot, and why the others wait.

Decides without I/O and without a clock: `at` is the monotonic time in seconds. What it decides
stands on the `Job`: `account` and `charge`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec.structs import replace

from proxy.engine.accounts import Account
from proxy.engine.fair_share import FairShare, JobQueue, MemberQueue, QueuePosition
from proxy.jobs.models import FairBy, Job, JobState
from proxy.members.member import Member
from proxy.storage.shares import Shares
from proxy.translate.errors import LocalError

#: The message to a client about a job whose reason is `client`.
WAITS_FOR_CLIENT = (
    "Another job of the same client_id must end first, as on a local ComfyUI; client_parallelism = "
    "many runs them in parallel."
)

#: The same about one whose reason is `model`.
WAITS_FOR_MODEL = (
    "Not every Comfy Cloud account has {}, and those that have it are busy; the job waits for one "
    "of them."
)


class Scheduler:
    """Slots, fair shares and the queue together.

    A job has its slot from the moment at which its turn comes until the cloud has reported its
    end. `member` gives weight and limits of a member.
    """

    def __init__(
        self, accounts: Mapping[str, Account], member: Callable[[str], Member], fair_by: FairBy
    ) -> None:
        self.queue = JobQueue()
        self.shares = FairShare(fair_by)
        self._accounts = accounts
        self._member = member
        self._accounts_shares = FairShare()
        self._placed: set[Job] = set()
        #: Of these, those of which the storage does not know it.
        self._unsaved: set[Job] = set()
        #: How many slots of each account are taken, how many each member has, and each client by
        #: its member and `client_id`.
        self._used: Counter[str] = Counter()
        self._on_cloud: Counter[str] = Counter()
        self._busy: Counter[tuple[str, str | None]] = Counter()
        self._forecast: list[QueuePosition] | None = None
        self._before: dict[str, int] = {}

    # --- who has a slot --------------------------------------------------------------------

    def used(self, account: str) -> int:
        """Return how many slots of the account are taken."""
        return self._used[account]

    def keep(self, job: Job) -> None:
        """Note a job that has had its slot since before a restart."""
        self._place(job)
        if job.state is JobState.RUNNING:
            self.started(job)

    def take(self, job: Job, account: Account) -> None:
        """Give a job a slot on an account; it is its turn."""
        job.account = account.name
        job.charge = self.shares.take(job.member, self._member(job.member).weight)
        self._accounts_shares.take(account.name, account.weight)
        account.health.sent()
        self._place(job)
        self._unsaved.add(job)

    def give_back(self, job: Job) -> None:
        """Take back the slot and the turn of a job that was not sent after all."""
        self.leave(job)
        self.shares.give_back(job.member, self._member(job.member).weight, job.charge)
        job.charge, job.account = 0.0, ""

    def started(self, job: Job) -> bool:
        """Note that a job runs. Return whether the account turns out to have more slots than was
        thought."""
        if job not in self._placed:
            return False
        running = sum(
            other.account == job.account and other.state is JobState.RUNNING
            for other in self._placed
        )
        return self._accounts[job.account].slots.running(running)

    def ended(self, job: Job, seconds: float) -> None:
        """Note for how many seconds a job ran."""
        if job.charge and self.shares.by == "time":
            self.shares.ended(job.member, self._member(job.member).weight, job.charge, seconds)

    def _place(self, job: Job) -> None:
        if job not in self._placed:
            self._placed.add(job)
            self._used[job.account] += 1
            self._on_cloud[job.member] += 1
            self._busy[job.member, job.client_id] += 1

    def leave(self, job: Job) -> bool:
        """Free the slot of a job. Return whether it had one."""
        if job not in self._placed:
            return False
        self._placed.remove(job)
        self._unsaved.discard(job)
        self._used[job.account] -= 1
        self._on_cloud[job.member] -= 1
        self._busy[job.member, job.client_id] -= 1
        if not self._busy[job.member, job.client_id]:
            del self._busy[job.member, job.client_id]
        return True

    # --- what is kept ----------------------------------------------------------------------

    def shares_of(self, jobs: Collection[Job]) -> Shares:
        """Return the shares of these jobs' members and the learned slots, to be stored with them.

        Other jobs whose slots the storage does not know yet have not used a turn, as far as a
        restart is concerned: they wait.
        """
        self._unsaved.difference_update(jobs)
        unused: defaultdict[str, float] = defaultdict(float)
        for job in self._unsaved:
            unused[job.member] += job.charge
        shares = {}
        for job in jobs:
            weight = self._member(job.member).weight
            shares[job.member] = self.shares.state_of(job.member, unused[job.member] / weight)
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

    # --- who gets the next -----------------------------------------------------------------

    def next(self, at: float) -> tuple[Job, Account] | None:
        """Take the waiting job that may be sent now out of the queue. Return it with its account,
        `None` if there is none."""
        ready = {}
        for member in self.queue.members():
            if (candidate := self._candidate(member, at)) is not None:
                ready[member] = candidate
        chosen = self.shares.choose({member: job.order for member, (job, _) in ready.items()})
        if chosen is None:
            return None
        self.queue.remove(ready[chosen][0])
        return ready[chosen]

    def may_go_at_once(self, job: Job, account: Account) -> bool:
        """Return whether a new job may be sent before those that wait."""
        if self._waits_for_client(job):
            return False
        return not self.queue.of(job.member) or self._has_slot(account)

    def _candidate(self, member: str, at: float) -> tuple[Job, Account] | None:
        """Return the member's next job and its account: the first job, unless its client is busy.

        That one is overtaken where a slot is free, and not where the other would only wait on the
        cloud, and then run first. A job that waits for accounts with its models is overtaken.
        """
        found: dict[frozenset[str] | None, Account | None] = {}
        for job in self.queue.of(member):
            accounts = None if job.needs is None else job.needs.accounts
            if accounts not in found:
                found[accounts] = self.account_for(job, at)
            account = found[accounts]
            if account is None:
                if accounts is None:
                    return None
                continue
            if not self._waits_for_client(job):
                return job, account
            if not self._has_slot(account):
                return None
        return None

    def _waits_for_client(self, job: Job) -> bool:
        """Return whether a job has to wait for another one of its client.

        It is not sent ahead either: the plan may turn out to run it at once.
        """
        return job.one_at_a_time and (job.member, job.client_id) in self._busy

    def _any_slot(self, accounts: Iterable[Account]) -> bool:
        """Return whether one of the accounts could run one more job at once."""
        return any(self._used[account.name] < account.slots.count for account in accounts)

    def _has_slot(self, account: Account) -> bool:
        """Return whether the account has a slot free, or may have one as far as is known."""
        return not account.slots.certain or self._used[account.name] < account.slots.count

    def account_for(self, job: Job, at: float, *, probing: bool = False) -> Account | None:
        """Return the account that a job may be sent to now, if any.

        With `probing` an account that rests is tried, if none is well.
        """
        if self._limited(job.member) is not None:
            return None
        allowed = self.usable(job)
        free = [account for account in allowed if self._used[account.name] < account.slots.limit]
        ready = [account for account in free if account.health.ready(at)]
        if not ready and probing and not any(account.health.well for account in allowed):
            ready = free
        places = {account.name: place for place, account in enumerate(ready)}
        name = self._accounts_shares.choose(places)
        return None if name is None else self._accounts[name]

    def has_other(self, job: Job) -> bool:
        """Return whether another account that takes the member's jobs is well."""
        return any(
            account.name != job.account and account.health.well for account in self.usable(job)
        )

    def wake(self, at: float) -> float | None:
        """Return when a resting account is to be tried again, if one is."""
        rests = [
            account.health.until for account in self._accounts.values() if not account.health.well
        ]
        return min((until for until in rests if until > at), default=None)

    # --- why the others wait ---------------------------------------------------------------

    def changed(self) -> None:
        """Note that the queue, the shares or what blocks a member have changed."""
        self._forecast = None

    def forecast(self) -> list[QueuePosition]:
        """Return all waiting jobs in the order in which they will go, if nothing changes."""
        if self._forecast is None:
            free = {
                member: self._any_slot(self._allowed(member)) for member in self.queue.members()
            }
            self._forecast = [
                replace(place, reason=self._own_reason(place.job, free=free[place.job.member]))
                if place.reason in ("slot", "turn")
                and self._own_reason(place.job, free=free[place.job.member])
                else place
                for place in self.shares.places(self._queues())
            ]
            self._before = _before(self._forecast)
        return self._forecast

    def before(self, member: str) -> int:
        """Return how many jobs of others go before the member's last waiting one."""
        if len(self.queue.members()) < 2 or not self.queue.of(member):
            return 0
        if self._forecast is not None:
            return self._before[member]
        return self.shares.before(self._queues(), member)

    def _queues(self) -> dict[str, MemberQueue]:
        return {
            member: MemberQueue(
                self._member(member).weight, self.queue.of(member), self.blocked(member)
            )
            for member in self.queue.members()
        }

    def _own_reason(self, job: Job, *, free: bool) -> str:
        """Return why a job waits although there is a slot `free` for others; empty if it does
        not."""
        if job.needs is not None and not self._any_slot(self.usable(job)):
            return "model" if free else ""
        return "client" if free and self._waits_for_client(job) else ""

    def unable(self, job: Job) -> tuple[float, LocalError] | None:
        """Return since when (monotonic, in seconds) no account can take the job, and why.

        `None` if one may: it is well, it rests for something that passes, or its queue is full of
        jobs of ours, which end.
        """
        since, refusal = 0.0, None
        for account in self.usable(job):
            health = account.health
            passes = health.reason == "queue_limit" and self._used[account.name]
            if health.unable_since is None or health.refusal is None or passes:
                return None
            if health.unable_since >= since:
                since, refusal = health.unable_since, health.refusal
        return None if refusal is None else (since, refusal)

    def waiting(
        self, member: str, jobs: Iterable[Job]
    ) -> Iterator[tuple[Job, str | None, str | None]]:
        """Yield each of a member's waiting jobs with why it could not be sent with a slot free, in
        a word and in a sentence."""
        reason, allowed = self.blocked(member), self._allowed(member)
        refusal = allowed[0].health.refusal if allowed and reason is not None else None
        free = reason is None and self._any_slot(allowed)
        for job in jobs:
            own = self._own_reason(job, free=free)
            if own == "model" and job.needs is not None:
                yield job, own, WAITS_FOR_MODEL.format(job.needs.name)
            elif own:
                yield job, own, WAITS_FOR_CLIENT
            else:
                yield job, reason, None if refusal is None else refusal.message

    def blocked(self, member: str) -> str | None:
        """Return why none of the member's jobs may go, regardless of the turn; `None` if one
        may."""
        limited = self._limited(member)
        if limited is not None:
            return limited
        allowed = self._allowed(member)
        if not allowed:
            return "no_account"
        resting = [account.health.reason for account in allowed]
        return None if None in resting else resting[0]

    def _limited(self, member: str) -> str | None:
        who = self._member(member)
        limit = who.limits.max_running
        if who.disabled:
            return "disabled"
        return "limit" if limit is not None and self._on_cloud[member] >= limit else None

    def _allowed(self, member: str) -> list[Account]:
        return [account for account in self._accounts.values() if account.allows(member)]

    def usable(self, job: Job) -> list[Account]:
        """Return the accounts that take the member's jobs and have what this one names.

        Where none has it any longer, the cloud decides.
        """
        allowed = self._allowed(job.member)
        if job.needs is None:
            return allowed
        return [account for account in allowed if account.name in job.needs.accounts] or allowed


def _before(places: Iterable[QueuePosition]) -> dict[str, int]:
    """Return for each member the number of others' jobs before its last one."""
    own: Counter[str] = Counter()
    last: dict[str, int] = {}
    for place in places:
        own[place.job.member] += 1
        last[place.job.member] = place.before
    return {member: before - (own[member] - 1) for member, before in last.items()}
