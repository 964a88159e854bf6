"""The places on the accounts: who has one, who gets the next, and why the others wait."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from proxy.accounts.choice import Choice
from proxy.jobs import clients
from proxy.jobs.fair_share import Claim, FairBy, FairShare, MemberQueue, QueuePosition
from proxy.jobs.lane import Lane
from proxy.jobs.line import Line
from proxy.jobs.record import JobRecord
from proxy.members.member import Member
from proxy.translate.errors import LocalError

#: What a client is told of a job whose reason is `client`.
WAITS_FOR_CLIENT = (
    "Another job of the same client_id has to end first, as on a local ComfyUI; "
    "client_parallelism = many runs them side by side."
)


class Places:
    """Slots, turns and the line together; in memory, without waiting.

    A job has its place from the moment at which its turn comes until the cloud has told of its
    end. `member` gives weight and limits of a member.
    """

    def __init__(
        self, lanes: Mapping[str, Lane], member: Callable[[str], Member], fair_by: FairBy
    ) -> None:
        self.line = Line()
        self.turns = FairShare(fair_by)
        self._lanes = lanes
        self._member = member
        self._choice = Choice()
        self._taken: dict[str, JobRecord] = {}
        self._unsaved: dict[str, JobRecord] = {}
        self._running: dict[str, set[str]] = {name: set() for name in lanes}
        self._forecast: list[QueuePosition] | None = None
        self._before: dict[str, int] = {}

    # --- who has a place -------------------------------------------------------------------

    def on_cloud(self, member: str) -> int:
        """How many places the member has."""
        return sum(record.member == member for record in self._taken.values())

    def used(self, account: str) -> int:
        """How many places of the account are taken."""
        return sum(record.account == account for record in self._taken.values())

    def keep(self, record: JobRecord) -> None:
        """A job has its place already, from before a restart."""
        self._taken[record.key] = record
        if record.started_at is not None:
            self.started(record)

    def take(self, record: JobRecord, lane: Lane) -> None:
        """Give a job a place on an account; it is its turn."""
        record.account = lane.name
        record.charge = self.turns.take(record.member, self._weight(record.member))
        self._choice.took(lane.name, lane.account.weight)
        lane.account.health.sent()
        self._taken[record.key] = self._unsaved[record.key] = record

    def turns_with(self, record: JobRecord) -> dict[str, Any]:
        """The turns and the learnt slots as they are to be kept together with a job's place.

        Other jobs of which the disk does not know yet that they have a place have not used a turn,
        as far as a restart is concerned: they wait.
        """
        self._unsaved.pop(record.key, None)
        unused: defaultdict[str, float] = defaultdict(float)
        for other in self._unsaved.values():
            unused[other.member] += other.charge / self._weight(other.member)
        slots = {name: lane.account.slots for name, lane in self._lanes.items()}
        learnt = {name: its.count for name, its in slots.items() if its.learning}
        return {**self.turns.state(unused), "slots": learnt}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `turns_with` left off. Raises `ValueError`, `TypeError` or `KeyError`."""
        self.turns.restore(state)
        for name, learnt in dict(state.get("slots", {})).items():
            if name in self._lanes:
                self._lanes[name].account.slots.restore(int(learnt))

    def give_back(self, record: JobRecord) -> None:
        """The job did not go after all: it has neither a place nor used its turn."""
        self._unsaved.pop(record.key, None)
        if self._taken.get(record.key) is record:
            del self._taken[record.key]
        self.turns.give_back(record.member, self._weight(record.member), record.charge)
        record.charge, record.account = 0.0, ""

    def started(self, record: JobRecord) -> bool:
        """A job runs. Says whether the account turns out to have more slots than was thought."""
        if self._taken.get(record.key) is not record:
            return False
        running = self._running[record.account]
        running.add(record.key)
        return self._lanes[record.account].account.slots.running(len(running))

    def leave(self, record: JobRecord) -> bool:
        """A job needs its place no more. Says whether it had one."""
        if self._taken.get(record.key) is not record:
            return False
        del self._taken[record.key]
        self._unsaved.pop(record.key, None)
        self._running[record.account].discard(record.key)
        return True

    def ended(self, record: JobRecord, seconds: float) -> None:
        """It is known how long a job ran."""
        if record.charge:
            weight = self._weight(record.member)
            self.turns.ended(record.member, weight, record.charge, seconds)

    # --- who gets the next -----------------------------------------------------------------

    def next(self) -> tuple[JobRecord, Lane] | None:
        """The waiting job that may go now, out of the line, and where to; `None` if none may."""
        ready = {}
        busy = clients.busy(self._taken.values())
        for member in self.line.members():
            lane = self.lane_for(member)
            if lane is not None:
                record = self._candidate(member, lane, busy)
                if record is not None:
                    ready[member] = record, lane
        claims = {
            member: Claim(self._weight(member), record.order)
            for member, (record, _) in ready.items()
        }
        chosen = self.turns.choose(claims)
        if chosen is None:
            return None
        self.line.remove(ready[chosen][0])
        return ready[chosen]

    def may_go_at_once(self, record: JobRecord, lane: Lane) -> bool:
        """Whether a new job may go before those that wait."""
        if self._waits_for_client(record):
            return False
        return not self.line.count(record.member) or self._has_slot(lane)

    def _candidate(self, member: str, lane: Lane, busy: set[clients.Client]) -> JobRecord | None:
        """The member's job that goes to the lane next: the first, unless its client is busy.

        That one is overtaken where a slot is free, and not where the other would only wait on the
        cloud, and then run first.
        """
        for record in self.line.in_order(member):
            if not clients.waits_for_client(record, busy):
                return record
            if not self._has_slot(lane):
                return None
        return None

    def _waits_for_client(self, record: JobRecord) -> bool:
        return clients.waits_for_client(record, clients.busy(self._taken.values()))

    def _any_slot(self, member: str) -> bool:
        """Whether an account that takes the member's jobs could run one more at once."""
        return any(self.used(one.name) < one.account.slots.count for one in self._allowed(member))

    def _has_slot(self, lane: Lane) -> bool:
        """Whether the lane has a slot free, or may have one as far as is known."""
        slots = lane.account.slots
        return not slots.certain or self.used(lane.name) < slots.count

    def lane_for(self, member: str, *, probing: bool = False) -> Lane | None:
        """Where a job of the member may go now, if anywhere.

        With `probing` an account that rests is tried, if there is none that is well.
        """
        if self._limited(member) is not None:
            return None
        allowed = self._allowed(member)
        free = [lane for lane in allowed if lane.account.slots.free(self.used(lane.name))]
        now = time.monotonic()
        ready = [lane for lane in free if lane.account.health.ready(now)]
        if not ready and probing and not any(lane.account.health.well for lane in allowed):
            ready = free
        name = self._choice.of({lane.name: lane.account.weight for lane in ready})
        return None if name is None else self._lanes[name]

    def has_account(self, member: str) -> bool:
        """Whether any account takes the member's jobs."""
        return bool(self._allowed(member))

    def has_other(self, record: JobRecord) -> bool:
        """Whether another account that takes the member's jobs is well."""
        return any(
            lane.name != record.account and lane.account.health.well
            for lane in self._allowed(record.member)
        )

    def wake(self) -> float | None:
        """When (`time.monotonic()`) a resting account is to be tried again, if one is."""
        rests = [
            lane.account.health.until
            for lane in self._lanes.values()
            if not lane.account.health.well
        ]
        later = [until for until in rests if until > time.monotonic()]
        return min(later, default=None)

    # --- why the others wait ---------------------------------------------------------------

    def changed(self) -> None:
        """The line, the turns or what blocks a member have changed."""
        self._forecast = None

    def forecast(self) -> list[QueuePosition]:
        """All waiting jobs in the order in which they will go, if nothing changes."""
        if self._forecast is None:
            self._forecast = self.turns.places(
                {
                    member: MemberQueue(
                        self._weight(member), self.line.orders(member), self._blocked(member)
                    )
                    for member in self.line.members()
                }
            )
            self._forecast = self._with_clients(self._forecast)
            self._before = _before(self._forecast)
        return self._forecast

    def _with_clients(self, positions: list[QueuePosition]) -> list[QueuePosition]:
        """The positions, with the reason `client` where a job waits for one of its client."""
        busy = clients.busy(self._taken.values())
        lines = {member: self.line.of(member) for member in self.line.members()}
        free = {member: self._any_slot(member) for member in lines}
        return [
            replace(one, reason="client")
            if one.reason in ("slot", "turn")
            and free[one.member]
            and clients.waits_for_client(lines[one.member][one.index], busy)
            else one
            for one in positions
        ]

    def before(self, member: str) -> int:
        """How many jobs of others go before the member's last waiting one."""
        if len(self.line.members()) < 2 or not self.line.count(member):
            return 0
        if self._forecast is not None:
            return self._before[member]
        queues = {
            other: MemberQueue(self._weight(other), self.line.orders(other))
            for other in self.line.members()
        }
        return self.turns.before(queues, member)

    def unable(self, member: str) -> tuple[float, LocalError] | None:
        """Since when (`time.monotonic()`) no account can take the member's jobs, and why.

        `None` if one may: it is well, it rests for something that passes, or its queue is full of
        jobs of ours, which end.
        """
        since, refusal = 0.0, None
        for lane in self._allowed(member):
            health = lane.account.health
            passes = health.reason == "queue_limit" and self.used(lane.name)
            if health.unable_since is None or health.refusal is None or passes:
                return None
            if health.unable_since >= since:
                since, refusal = health.unable_since, health.refusal
        return None if refusal is None else (since, refusal)

    def blocked(self, record: JobRecord) -> tuple[str, str | None] | None:
        """Why a waiting job could not go with a slot free: a word, perhaps a sentence."""
        allowed = self._allowed(record.member)
        if record not in self.line:
            return None
        reason = self._blocked(record.member)
        if reason is None:
            waits = self._waits_for_client(record) and self._any_slot(record.member)
            return ("client", WAITS_FOR_CLIENT) if waits else None
        told = allowed[0].account.health.refusal if allowed else None
        return reason, None if told is None else told.message

    def _blocked(self, member: str) -> str | None:
        limited = self._limited(member)
        if limited is not None:
            return limited
        allowed = self._allowed(member)
        if not allowed:
            return "no_account"
        resting = [lane.account.health.reason for lane in allowed]
        return None if None in resting else resting[0]

    def _limited(self, member: str) -> str | None:
        who = self._member(member)
        limit = who.limits.max_running
        if who.disabled:
            return "disabled"
        return "limit" if limit is not None and self.on_cloud(member) >= limit else None

    def _allowed(self, member: str) -> list[Lane]:
        return [lane for lane in self._lanes.values() if lane.account.allows(member)]

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
