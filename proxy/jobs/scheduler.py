"""Which job goes next and to which account, who has a slot, and why the others wait.

Decides in memory, without waiting. What it decides stands on the `Job`: `account` and `charge`.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from proxy.jobs.accounts import Account, AccountSelector
from proxy.jobs.models import FairBy, Job, JobKey
from proxy.jobs.queue import (
    Claim,
    Client,
    FairShare,
    JobQueue,
    MemberQueue,
    QueuePosition,
    busy_clients,
    waits_for_client,
)
from proxy.members.member import Member
from proxy.storage.jobs import Share, Shares
from proxy.translate.errors import LocalError

#: The messages to a client about a job whose reason is `client`.
WAITS_FOR_CLIENT = (
    "Another job of the same client_id must end first, as on a local ComfyUI; client_parallelism = "
    "many runs them in parallel."
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
        self._choice = AccountSelector()
        self._placed: dict[JobKey, Job] = {}
        self._used: Counter[str] = Counter()
        self._on_cloud: Counter[str] = Counter()
        self._unsaved: dict[JobKey, Job] = {}
        self._running: defaultdict[str, set[JobKey]] = defaultdict(set)
        self._forecast: list[QueuePosition] | None = None
        self._before: dict[str, int] = {}

    # --- who has a slot --------------------------------------------------------------------

    def on_cloud(self, member: str) -> int:
        """How many slots the member has."""
        return self._on_cloud[member]

    def used(self, account: str) -> int:
        """How many slots of the account are taken."""
        return self._used[account]

    def keep(self, job: Job) -> None:
        """A job has its slot already, from before a restart."""
        self._place(job)
        if job.started_at is not None:
            self.started(job)

    def take(self, job: Job, account: Account) -> None:
        """Give a job a slot on an account; it is its turn."""
        job.account = account.name
        job.charge = self.shares.take(job.member, self._weight(job.member))
        self._choice.took(account.name, account.weight)
        account.health.sent()
        self._place(job)
        self._unsaved[job.key] = job

    def give_back(self, job: Job) -> None:
        """The job did not go after all: it has neither a slot nor used its turn."""
        self._displace(job)
        self.shares.give_back(job.member, self._weight(job.member), job.charge)
        job.charge, job.account = 0.0, ""

    def started(self, job: Job) -> bool:
        """A job runs. Says whether the account turns out to have more slots than was thought."""
        account = self._accounts.get(job.account)
        if account is None or self._placed.get(job.key) is not job:
            return False
        running = self._running[job.account]
        running.add(job.key)
        return account.slots.running(len(running))

    def leave(self, job: Job) -> bool:
        """A job needs its slot no more. Says whether it had one."""
        return self._displace(job)

    def ended(self, job: Job, seconds: float) -> None:
        """It is known how long a job ran."""
        if job.charge:
            self.shares.ended(job.member, self._weight(job.member), job.charge, seconds)

    def _place(self, job: Job) -> None:
        if self._placed.get(job.key) is not job:
            self._placed[job.key] = job
            self._used[job.account] += 1
            self._on_cloud[job.member] += 1

    def _displace(self, job: Job) -> bool:
        if self._placed.get(job.key) is not job:
            return False
        del self._placed[job.key]
        self._unsaved.pop(job.key, None)
        self._used[job.account] -= 1
        self._on_cloud[job.member] -= 1
        self._running[job.account].discard(job.key)
        return True

    # --- what is kept ----------------------------------------------------------------------

    def shares_with(self, job: Job) -> Shares:
        """The member's share and the learned slots, to be stored together with a job's slot.

        Other jobs of which the storage does not know yet that they have a slot have not used a
        turn, as far as a restart is concerned: they wait.
        """
        self._unsaved.pop(job.key, None)
        unused = sum(one.charge for one in self._unsaved.values() if one.member == job.member)
        start, typical = self.shares.state_of(job.member, unused / self._weight(job.member))
        slots = {name: account.slots for name, account in self._accounts.items()}
        learnt = {name: its.count for name, its in slots.items() if its.learning}
        return Shares(self.shares.now, {job.member: Share(start, typical)}, learnt)

    def restore(self, kept: Shares) -> None:
        """Continue where `shares_with` left off."""
        starts = {name: one.start for name, one in kept.members.items() if one.start is not None}
        typical = {name: one.typical for name, one in kept.members.items() if one.typical}
        self.shares.restore(kept.now, starts, typical)
        for name, learnt in kept.slots.items():
            if name in self._accounts:
                self._accounts[name].slots.restore(learnt)

    # --- who gets the next -----------------------------------------------------------------

    def next(self) -> tuple[Job, Account] | None:
        """The waiting job that may go now, out of the queue, and where to; `None` if none may."""
        ready = {}
        busy = busy_clients(self._placed.values())
        for member in self.queue.members():
            account = self.account_for(member)
            if account is not None:
                job = self._candidate(member, account, busy)
                if job is not None:
                    ready[member] = job, account
        claims = {
            member: Claim(self._weight(member), job.order) for member, (job, _) in ready.items()
        }
        chosen = self.shares.choose(claims)
        if chosen is None:
            return None
        self.queue.remove(ready[chosen][0])
        return ready[chosen]

    def may_go_at_once(self, job: Job, account: Account) -> bool:
        """Whether a new job may go before those that wait."""
        if self._waits_for_client(job):
            return False
        return not self.queue.count(job.member) or self._has_slot(account)

    def _candidate(self, member: str, account: Account, busy: set[Client]) -> Job | None:
        """The member's job that goes to the account next: the first, unless its client is busy.

        That one is overtaken where a slot is free, and not where the other would only wait on the
        cloud, and then run first.
        """
        for job in self.queue.in_order(member):
            if not waits_for_client(job, busy):
                return job
            if not self._has_slot(account):
                return None
        return None

    def _waits_for_client(self, job: Job) -> bool:
        return job.one_at_a_time and waits_for_client(job, busy_clients(self._placed.values()))

    def _any_slot(self, member: str) -> bool:
        """Whether an account that takes the member's jobs could run one more at once."""
        return any(self.used(one.name) < one.slots.count for one in self._allowed(member))

    def _has_slot(self, account: Account) -> bool:
        """Whether the account has a slot free, or may have one as far as is known."""
        return not account.slots.certain or self.used(account.name) < account.slots.count

    def account_for(self, member: str, *, probing: bool = False) -> Account | None:
        """Where a job of the member may go now, if anywhere.

        With `probing` an account that rests is tried, if there is none that is well.
        """
        if self._limited(member) is not None:
            return None
        allowed = self._allowed(member)
        free = [account for account in allowed if account.slots.free(self.used(account.name))]
        now = time.monotonic()
        ready = [account for account in free if account.health.ready(now)]
        if not ready and probing and not any(account.health.well for account in allowed):
            ready = free
        name = self._choice.of({account.name: account.weight for account in ready})
        return None if name is None else self._accounts[name]

    def has_account(self, member: str) -> bool:
        """Whether any account takes the member's jobs."""
        return bool(self._allowed(member))

    def has_other(self, job: Job) -> bool:
        """Whether another account that takes the member's jobs is well."""
        return any(
            account.name != job.account and account.health.well
            for account in self._allowed(job.member)
        )

    def wake(self) -> float | None:
        """When (`time.monotonic()`) a resting account is to be tried again, if one is."""
        rests = [one.health.until for one in self._accounts.values() if not one.health.well]
        later = [until for until in rests if until > time.monotonic()]
        return min(later, default=None)

    # --- why the others wait ---------------------------------------------------------------

    def changed(self) -> None:
        """The queue, the shares or what blocks a member have changed."""
        self._forecast = None

    def forecast(self) -> list[QueuePosition]:
        """All waiting jobs in the order in which they will go, if nothing changes."""
        if self._forecast is None:
            self._forecast = self.shares.places(
                {
                    member: MemberQueue(
                        self._weight(member), self.queue.orders(member), self.blocked(member)
                    )
                    for member in self.queue.members()
                }
            )
            self._forecast = self._with_clients(self._forecast)
            self._before = _before(self._forecast)
        return self._forecast

    def _with_clients(self, positions: list[QueuePosition]) -> list[QueuePosition]:
        """The positions, with the reason `client` where a job waits for one of its client."""
        busy = busy_clients(self._placed.values())
        queues = {member: self.queue.of(member) for member in self.queue.members()}
        free = {member: self._any_slot(member) for member in queues}
        return [
            replace(one, reason="client")
            if one.reason in ("slot", "turn")
            and free[one.member]
            and waits_for_client(queues[one.member][one.index], busy)
            else one
            for one in positions
        ]

    def before(self, member: str) -> int:
        """How many jobs of others go before the member's last waiting one."""
        if len(self.queue.members()) < 2 or not self.queue.count(member):
            return 0
        if self._forecast is not None:
            return self._before[member]
        queues = {
            other: MemberQueue(self._weight(other), self.queue.orders(other))
            for other in self.queue.members()
        }
        return self.shares.before(queues, member)

    def unable(self, member: str) -> tuple[float, LocalError] | None:
        """Since when (`time.monotonic()`) no account can take the member's jobs, and why.

        `None` if one may: it is well, it rests for something that passes, or its queue is full of
        jobs of ours, which end.
        """
        since, refusal = 0.0, None
        for account in self._allowed(member):
            health = account.health
            passes = health.reason == "queue_limit" and self.used(account.name)
            if health.unable_since is None or health.refusal is None or passes:
                return None
            if health.unable_since >= since:
                since, refusal = health.unable_since, health.refusal
        return None if refusal is None else (since, refusal)

    def told(self, member: str) -> tuple[str, str | None] | None:
        """Why none of the member's jobs may go, in a word and in a sentence if there is one."""
        reason = self.blocked(member)
        if reason is None:
            return None
        allowed = self._allowed(member)
        refusal = allowed[0].health.refusal if allowed else None
        return reason, None if refusal is None else refusal.message

    def why(self, job: Job) -> tuple[str | None, str | None]:
        """Why a waiting job could not go with a slot free, in a word and in a sentence."""
        reason, message = self.told(job.member) or (None, None)
        if reason is None and self._any_slot(job.member) and self._waits_for_client(job):
            return "client", WAITS_FOR_CLIENT
        return reason, message

    def waiting(self, member: str) -> Iterator[tuple[Job, str | None, str | None]]:
        """The member's waiting jobs, and why each could not go with a slot free."""
        reason, message = self.told(member) or (None, None)
        busy = busy_clients(self._placed.values())
        free = reason is None and self._any_slot(member)
        for job in self.queue.of(member):
            if free and waits_for_client(job, busy):
                yield job, "client", WAITS_FOR_CLIENT
            else:
                yield job, reason, message

    def blocked(self, member: str) -> str | None:
        """Why none of the member's jobs may go, regardless of the turn; `None` if one may."""
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
        return "limit" if limit is not None and self.on_cloud(member) >= limit else None

    def _allowed(self, member: str) -> list[Account]:
        return [account for account in self._accounts.values() if account.allows(member)]

    def _weight(self, member: str) -> float:
        return self._member(member).weight


def _before(places: Iterable[QueuePosition]) -> dict[str, int]:
    """For each member the others' jobs before its last one."""
    own: Counter[str] = Counter()
    last: dict[str, int] = {}
    for place in places:
        own[place.member] += 1
        last[place.member] = place.before
    return {member: before - (own[member] - 1) for member, before in last.items()}
