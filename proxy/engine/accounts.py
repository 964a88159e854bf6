"""Comfy Cloud accounts: how many jobs each runs, and whether it takes any.

`Slots` and `AccountHealth` decide without I/O and without a clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import structlog
from msgspec import Struct

from proxy.cloud.upstream import Upstream
from proxy.jobs.models import AccountKind
from proxy.runtime.backoff import Backoff
from proxy.translate.errors import (
    LocalError,
    kept,
)
from proxy.translate.plans import AccountPlan

log = structlog.get_logger(__name__)

#: The maximum number of jobs at once of any plan (Team); learning goes no further.
MAX_SLOTS = 25

#: This many readings in a row must show too many held jobs before the estimate shrinks.
_DOUBTS = 3


class Slots(Struct, eq=False):
    """What an account runs at once, and how many jobs may be there.

    Pure. `fixed` is the number of slots, 0 if it is to be learned. `count` jobs run at once, as far
    as is known, which is `certain` if it is fixed, or the cloud has said that more do not run. No
    job is sent beyond that: its order could no longer change. What is learned begins with what the
    account has announced or 1, grows when everything on the cloud runs at once, and shrinks when
    jobs keep waiting for a slot.
    """

    fixed: int = 0
    count: int = 1
    certain: bool = False
    _announced: int = 0
    _is_announced_limit: bool = False
    _doubts: int = 0

    def __post_init__(self) -> None:
        if self.fixed:
            self.count, self.certain = self.fixed, True

    @property
    def limit(self) -> int:
        """How many jobs may be on the cloud: one more than run, until the limit is certain."""
        return self.count if self.certain else self.count + 1

    def restore(self, learnt: int) -> None:
        """Continue with a number that was learned before; the plan may be another one since."""
        if self.fixed:
            return
        if self._announced:
            self.count, self.certain = self._announced, self._is_announced_limit
        else:
            self.count = max(1, min(learnt, MAX_SLOTS))
            self.certain = self.count >= MAX_SLOTS
        self._doubts = 0

    def announce(self, count: int, *, certain: bool) -> bool:
        """Note that the account reports `count` jobs at once; `certain` if this is a limit, and not
        only what its plan usually has. Return whether this is news.

        The same report again changes nothing: jobs may have taught something else since.
        """
        if (count, certain) == (self._announced, self._is_announced_limit):
            return False
        self._announced, self._is_announced_limit = count, certain
        if not self.fixed:
            self.count, self.certain, self._doubts = count, certain, 0
        return True

    def running(self, count: int) -> bool:
        """Note that `count` of our jobs run at once. Return whether more may be sent than
        before."""
        before = self.limit
        if not self.fixed and count > self.count:
            self.count = min(count, max(MAX_SLOTS, self._announced))
            self.certain, self._doubts = self.count >= MAX_SLOTS, 0
        return self.limit > before

    def held(self, count: int, running: int) -> None:
        """Note a reading: `count` jobs wait for lack of a slot (`concurrency_limit`), `running`
        run."""
        if self.fixed or not count:
            self._doubts = 0
            return
        if running >= self.count:
            self.certain, self._doubts = True, 0
            return
        self._doubts += 1
        if self._doubts >= _DOUBTS:
            self.count, self.certain, self._doubts = max(1, running), True, 0


Reason = Literal[
    "no_credits",
    "dead_key",
    "queue_limit",
    "rate_limited",
    "unreachable",
    "stopped",
    "no_nodes",
    "starting",
    "busy",
]

#: How long an account rests. What a person must repair is tried less often.
RESTS: dict[Reason, Backoff] = {
    "no_credits": Backoff(5.0, 300.0),
    "dead_key": Backoff(5.0, 300.0),
    "queue_limit": Backoff(1.0, 60.0),
    "rate_limited": Backoff(1.0, 60.0),
    "unreachable": Backoff(1.0, 30.0),
    "stopped": Backoff(30.0, 300.0),
    "no_nodes": Backoff(5.0, 300.0),
    "starting": Backoff(5.0, 30.0),
    "busy": Backoff(2.0, 30.0),
}

#: What does not pass by itself within any time that a client may be left to wait.
UNABLE = frozenset({"no_credits", "dead_key", "queue_limit", "stopped", "no_nodes"})

#: What passes by itself, however long it takes: a job waits for it in the queue.
PASSING = frozenset({"starting", "busy"})


class AccountHealth(Struct, eq=False):
    """An account that is well, or rests for a reason until some time.

    `now` is any clock in seconds that does not run backwards. After a rest one job is let through
    to try; if that fails for the same reason, the next rest is twice as long. `refusal` is what the
    last failure tells a client, `unable_since` when the account began to be `UNABLE` to take jobs.
    Nothing is `known` before it has taken or refused a job; `since` is when its reason began.
    """

    known: bool = False
    reason: Reason | None = None
    until: float = 0.0
    refusal: LocalError | None = None
    unable_since: float | None = None
    since: float = 0.0
    _failures: int = 0
    _trying: bool = False

    @property
    def well(self) -> bool:
        """Whether nothing is known against the account."""
        return self.reason is None

    def ready(self, now: float) -> bool:
        """Return whether a waiting job may be sent: the account is well, or has rested and no trial
        is under way."""
        return self.well or (now >= self.until and not self._trying)

    def sent(self) -> None:
        """Note that a job is sent; after a rest it is the trial."""
        self._trying = not self.well

    def failed(
        self,
        reason: Reason,
        now: float,
        asked: float | None = None,
        refusal: LocalError | None = None,
    ) -> None:
        """Note that the account refused a job for a reason of its own; `asked` is its `Retry-After`
        in seconds."""
        self.known, self.refusal = True, None if refusal is None else kept(refusal)
        if reason not in UNABLE:
            self.unable_since = None
        elif self.unable_since is None:
            self.unable_since = now
        again = reason == self.reason
        if again and not self._trying and now < self.until:
            return  # jobs that were sent together fail together: that is one failure
        self._failures = self._failures + 1 if again else 1
        self.since = self.since if again else now
        self.reason = reason
        self.until = now + max(RESTS[reason].whole(self._failures), asked or 0.0)
        self._trying = False

    def unsettled(self) -> None:
        """Mark the trial as finished without a verdict on the account."""
        self._trying = False

    def eased(self, now: float) -> None:
        """Note that a job has left the account: one that had too many may be tried at once."""
        if self.reason in ("queue_limit", "rate_limited"):
            self.until = min(self.until, now)

    def renewed(self) -> None:
        """Forget what was known against the account: it has another key, took a job, or refused one
        for a reason of the job's own."""
        self.known = True
        self.reason = self.refusal = self.unable_since = None
        self.until, self._failures = 0.0, 0
        self._trying = False


class Eligibility(Struct, frozen=True):
    """Which jobs an account gets.

    `members` are those whose jobs may run on the account, none named is everybody. Of the accounts
    that have what a job names, those of the lowest `cost` get it (`rank`). Without `validates` it
    gets no job that names what it lacks: it would charge for the failure.
    """

    members: tuple[str, ...] = ()
    cost: int = 0
    validates: bool = True

    @property
    def rank(self) -> int:
        """The place among the accounts that have what a job names: the cheaper one comes first, and
        before it one that costs more and is for certain members alone."""
        return -1 if self.cost and self.members else self.cost

    def allows(self, member: str) -> bool:
        """Return whether the member's jobs may run here."""
        return not self.members or member in self.members


@dataclass(slots=True, eq=False)
class Account:
    """An account with its calls.

    `key` is the API key that is lent to partner nodes; it changes with `use_key`.
    `plan_read` is set when the account was asked for its plan, if in vain.
    """

    name: str
    cloud: Upstream
    key: str = field(repr=False)
    slots: Slots = field(default_factory=Slots)
    health: AccountHealth = field(default_factory=AccountHealth)
    eligibility: Eligibility = field(default_factory=Eligibility)
    kind: AccountKind = "cloud"
    plan: AccountPlan = field(init=False, default_factory=AccountPlan)
    plan_read: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    @property
    def limit(self) -> int:
        """How many jobs may be on the cloud; none is sent to find out more while the plan, which
        may say it, is still being read."""
        known = self.slots.certain or self.plan_read.is_set()
        return self.slots.limit if known else self.slots.count

    async def read_plan(self) -> bool:
        """Read the account's plan; return whether its limit has changed. Never raises.

        What is not answered this time stays as it was.
        """
        plan = await self.cloud.account_plan()
        known = self.plan
        self.plan = AccountPlan(
            plan.tier or known.tier,
            *((plan.slots, plan.certain) if plan.slots else (known.slots, known.certain)),
            plan.minutes if plan.tier else known.minutes,
            known.balance_cents if plan.balance_cents is None else plan.balance_cents,
            plan.currency or known.currency,
            plan.notice,
        )
        before = self.limit
        self.plan_read.set()
        if self.plan.slots and self.slots.announce(self.plan.slots, certain=self.plan.certain):
            return True
        return self.limit != before

    def forget(self) -> None:
        """Forget what an earlier term has learned of the account."""
        self.slots.restore(1)
        self.health.renewed()
        self.health.known = False

    def use_key(self, key: str) -> None:
        """Take another key for calls from now on."""
        self.key = key
        self.health.renewed()
        self.cloud.use_key(key)


def best_first(accounts: Iterable[Account], member: str | None = None) -> list[Account]:
    """Return the accounts, with those of which nothing bad is known before the others.

    With a `member` only those that the member may use.
    """
    usable = [
        account for account in accounts if member is None or account.eligibility.allows(member)
    ]
    return sorted(usable, key=lambda account: not account.health.well)
