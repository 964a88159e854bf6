"""When waiting jobs will go, and why they wait.

Decides without I/O and without a clock of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from proxy.engine.accounts import PASSING, Account
from proxy.engine.fair_share import MemberQueue, QueuePosition
from proxy.engine.live_job import LiveJob
from proxy.engine.scheduler import Scheduler
from proxy.translate.errors import LocalError, kept

#: The message to a client about a job whose reason is `client`.
WAITS_FOR_CLIENT = (
    "Another job of the same client_id must end first, as on a local ComfyUI; client_parallelism = "
    "many runs them in parallel."
)

#: The same about one whose reason is `model`.
WAITS_FOR_MODEL = (
    "Not every account has {}, and those that have it are busy; the job waits for one of them."
)

#: The same about one whose reason is `memory`.
WAITS_FOR_MEMORY = (
    "The workflows of this member's running jobs take its share of the proxy's memory (the setting "
    "memory_mb). This job starts when one of them has ended."
)

#: The same about one whose reason is `restored`.
RESTORED = (
    "The job waited in a backup that was restored, and may have run since. It runs when an admin "
    "releases it: on the dashboard, or with comfy-cloud-proxy jobs release."
)


class Forecast:
    """What the `scheduler` will do with the jobs that wait, if nothing changes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._version = -1
        self._places: list[QueuePosition] = []
        self._before: dict[str, int] = {}

    def positions(self) -> list[QueuePosition]:
        """Return all waiting jobs in the order in which they will go."""
        scheduler = self._scheduler
        if not self._is_new:
            free = {
                member: scheduler.any_slot(scheduler.allowed(member))
                for member in scheduler.queue.members()
            }
            self._places = [
                replace(position, reason=own)
                if (position.reason in ("slot", "turn") or scheduler.is_held(position.job))
                and (own := self._own_reason(position.job, free=free[position.job.member]))
                else position
                for position in scheduler.shares.positions(self._queues())
            ]
            self._before = _before(self._places)
            self._version = scheduler.version
        return self._places

    def clear(self) -> None:
        """Forget all positions, since no job waits."""
        self._version, self._places = -1, []

    def before(self, member: str) -> int:
        """Return how many jobs of others go before the member's last waiting one."""
        queue = self._scheduler.queue
        if len(queue.members()) < 2 or not queue.of(member):
            return 0
        if self._is_new:
            return self._before[member]
        return self._scheduler.shares.before(self._queues(), member)

    def waiting(
        self, member: str, jobs: Iterable[LiveJob]
    ) -> Iterator[tuple[LiveJob, str | None, str | None]]:
        """Yield each of a member's waiting jobs with why it could not be sent with a slot free, in
        a word and in a sentence."""
        scheduler = self._scheduler
        reason, allowed = self.blocked(member), scheduler.allowed(member)
        refusal = allowed[0].health.refusal if allowed and reason is not None else None
        free = reason is None and scheduler.any_slot(allowed)
        next_shortfall = scheduler.waits_for_ends(member) if reason == "ceiling" else None
        for job in jobs:
            own = self._own_reason(job, free=free)
            rests = self._resting(job) if reason is None else None
            if own == "restored":
                yield job, own, RESTORED
            elif own == "budget" or reason == "ceiling":
                yield job, own or reason, scheduler.spending.explained(job, next_shortfall)
            elif reason == "memory":
                yield job, reason, WAITS_FOR_MEMORY
            elif rests is not None:
                yield job, rests.health.reason, scheduler.explained(rests)
            elif own == "model" and job.needs is not None:
                yield job, own, WAITS_FOR_MODEL.format(job.needs.name)
            elif own:
                yield job, own, WAITS_FOR_CLIENT
            elif reason in PASSING:
                yield job, reason, scheduler.explained(allowed[0])
            else:
                yield job, reason, None if refusal is None else refusal.message

    def blocked(self, member: str) -> str | None:
        """Return why none of the member's jobs may go, regardless of the turn; `None` if one
        may."""
        limited = self._scheduler.limited(member)
        if limited is not None:
            return limited
        allowed = self._scheduler.allowed(member)
        if not allowed:
            return "no_account"
        resting = [account.health.reason for account in allowed]
        return None if None in resting else resting[0]

    def unable(self, job: LiveJob) -> tuple[float, LocalError] | None:
        """Return since when (monotonic, in seconds) no account can take the job, and why.

        `None` if one may: it is well, it rests for something that passes, or its queue is full of
        jobs of ours, which end.
        """
        since, refusal = 0.0, None
        for account in self._scheduler.usable(job):
            health = account.health
            passes = health.reason == "queue_limit" and self._scheduler.used(account.name)
            if health.unable_since is None or health.refusal is None or passes:
                return None
            if health.unable_since >= since:
                since, refusal = health.unable_since, health.refusal
        return None if refusal is None else (since, kept(refusal))

    def _resting(self, job: LiveJob) -> Account | None:
        """Return the first of the accounts that have what a job names, if all of them rest."""
        if job.needs is None:
            return None
        usable = self._scheduler.usable(job)
        return usable[0] if usable and not any(each.health.well for each in usable) else None

    @property
    def _is_new(self) -> bool:
        return self._version == self._scheduler.version

    def _queues(self) -> dict[str, MemberQueue]:
        scheduler = self._scheduler
        return {
            member: MemberQueue(
                scheduler.member(member).weight, scheduler.queue.of(member), self.blocked(member)
            )
            for member in scheduler.queue.members()
        }

    def _own_reason(self, job: LiveJob, *, free: bool) -> str:
        """Return why a job waits although there is a slot `free` for others; empty if it does
        not."""
        scheduler = self._scheduler
        if scheduler.is_held(job):
            return "restored"
        shortfall = scheduler.spending.shortfall(job)
        if shortfall is not None and shortfall.is_certain:
            return "budget"
        if job.needs is not None and not scheduler.any_slot(scheduler.usable(job)):
            return "model" if free else ""
        return "client" if free and scheduler.waits_for_client(job) else ""


def _before(positions: Iterable[QueuePosition]) -> dict[str, int]:
    """Return for each member the number of others' jobs before its last one."""
    own: Counter[str] = Counter()
    last: dict[str, int] = {}
    for position in positions:
        own[position.job.member] += 1
        last[position.job.member] = position.before
    return {member: before - (own[member] - 1) for member, before in last.items()}
