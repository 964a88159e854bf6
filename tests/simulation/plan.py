"""What a run does: its replicas, its clients' actions and its faults, all drawn from the seed.

A plan can be cut down (`Plan.kept`) to find the smallest one that still fails.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from simulation.weather import DEPLOYMENT_RATES, MORE_RATES, NEWER_RATES, RATES

from proxy.members.member import MAX_QUEUED, Limits, Member

MEMBERS = ("ann", "bob", "carol")
#: The member with a hard budget a day, in credits.
SPENDER, BUDGET = "carol", 60.0


class Action(NamedTuple):
    """Something that a client does at a time; `seed` is for what it draws meanwhile."""

    at: float
    client: int
    kind: str
    seed: int


class Fault(NamedTuple):
    """A fault that begins at a time. It concerns a replica, or all where `replica` is -1; `seconds`
    is how long it lasts, `steps` how many callbacks the replica still runs before it."""

    at: float
    kind: str
    replica: int
    seconds: float
    steps: int


class ClientPlan(NamedTuple):
    """A client of a member, with a websocket or without."""

    member: str
    listens: bool


class DeploymentPlan(NamedTuple):
    """A deployment beside the accounts of Comfy Cloud, for some `members` alone or for all.

    It keeps the `labels` of jobs, forgets or refuses them; then it has no list of them either. It
    may have `streams`, tell progress where a job is read, tell times, and name the nodes of
    outputs. It has so many `workers`, maybe fewer than slots, and one that `is_cold` starts the
    first when a job comes.
    """

    members: tuple[str, ...]
    labels: Literal["kept", "forgotten", "refused"]
    streams: bool
    polls_progress: bool
    tells_times: bool
    names_nodes: bool
    workers: int
    is_cold: bool


@dataclass(frozen=True)
class Plan:
    """A run. `alone` is one replica with SQLite's semantics. The replicas know
    the number of slots where it is fixed, and learn it where it is not. With a `hook` a webhook
    hears of all jobs. Where `reads_often`, the jobs of accounts are read every few seconds. A run
    that `is_long` takes hours, and begins `after_noon` (s). Without `accounts` there is a
    `deployment` alone. An account has as many jobs of `strangers`, and gets more. A second of a job
    costs `credits_per_second`. The `members` have limits and weights. Where
    the cloud honours `ids`, they say what becomes of a second job with one. In a
    rush they submit more at once than can run, and nothing goes wrong."""

    seed: int
    replicas: int
    alone: bool
    slots: int
    fixed_slots: bool
    seconds: float
    duration: float
    in_order: bool
    hook: bool
    reads_often: bool
    accounts: int
    previews: bool
    skews: tuple[float, ...]
    rates: Mapping[str, float]
    clients: tuple[ClientPlan, ...]
    actions: tuple[Action, ...]
    faults: tuple[Fault, ...]
    strangers: int = 0
    credits_per_second: float = 0.0
    is_long: bool = False
    after_noon: float = 0.0
    deployment: DeploymentPlan | None = None
    members: tuple[Member, ...] = ()
    is_rush: bool = False
    ids: Literal["", "refused", "the same job"] = ""

    def kept(
        self,
        actions: Collection[int] | None = None,
        faults: Collection[int] | None = None,
        rates: Collection[str] | None = None,
    ) -> Plan:
        """Return the plan with only these actions, faults (by their places) and rates."""
        return replace(
            self,
            actions=_only(self.actions, actions),
            faults=_only(self.faults, faults),
            rates={
                name: rate for name, rate in self.rates.items() if rates is None or name in rates
            },
        )


#: What clients do, with how often.
_ACTIONS = {
    "submit": 10,
    "submit_front": 1,
    "burst": 1,
    "cancel": 1,
    "delete": 1,
    "clear": 0.4,
    "interrupt": 1,
    "interrupt_own": 0.5,
    "reconnect": 1,
    "look": 1.5,
}

#: How many hours a long run takes: no longer than a webhook is attempted again.
HOURS = (1, 3, 6, 12)

#: Faults, with how often they come and for how many seconds.
_FAULTS = {
    "kill": (3, 0.5, 15.0),
    "freeze": (3, 1.0, 45.0),
    "ambush_kill": (2, 0.5, 15.0),
    "ambush_freeze": (2, 5.0, 45.0),
    "restart": (1, 0.5, 5.0),
    "database": (2, 0.5, 90.0),
    "slow_database": (1, 1.0, 15.0),
    "peer": (2, 0.5, 30.0),
    "peer_out": (1, 0.5, 30.0),
    "peer_in": (1, 0.5, 30.0),
    "stale": (1, 2.0, 20.0),
    "front": (1, 0.5, 20.0),
    "cloud": (2, 1.0, 60.0),
    "half_lost": (2, 2.0, 30.0),
    "clock": (1, -3600.0, 3600.0),
}

#: More of them, beside those: the replica that runs the engine is frozen on the way of a write to
#: the database; the database answers a renewal of its lease late and is away from it then; the
#: credits are used up; all replicas are replaced one after the other by those of the next release;
#: one of two accounts is away.
_MORE_FAULTS = {
    "frozen_write": (3, 10.0, 45.0),
    "late_lease": (3, 5.0, 30.0),
    "no_credits": (3, 5.0, 40.0),
    "upgrade": (1, 0.5, 5.0),
    "other_cloud": (1, 1.0, 60.0),
}

#: Those of a deployment: it is not reached, is stopped, starts, or has a full queue.
_DEPLOYMENT_FAULTS = {
    "deployment_away": (2, 1.0, 60.0),
    "deployment_stopped": (2, 1.0, 40.0),
    "deployment_starting": (2, 1.0, 60.0),
    "deployment_full": (1, 1.0, 30.0),
}

#: What people change meanwhile: a member is disabled or removed for a while, or its token revoked;
#: limits are others; a key is refused for a while, or another one comes into the settings late; an
#: account is not in the settings for a while.
_CHANGES = {
    "member_disabled": (2, 5.0, 60.0),
    "member_removed": (1, 5.0, 60.0),
    "token_revoked": (2, 5.0, 60.0),
    "limits_changed": (2, 0.0, 0.0),
    "key_refused": (2, 5.0, 40.0),
    "key_replaced": (2, 0.0, 40.0),
}
_ACCOUNT_REMOVED = (5.0, 60.0)

#: How often people change something, and how often an account of two is removed.
_HAS_CHANGE, _HAS_REMOVAL = 0.3, 0.3

#: How often the cloud honours ids.
_HONOURS_IDS = 0.15

#: From which seed on there may be a deployment, and how often there is one.
DEPLOYMENTS, _HAS_DEPLOYMENT = 200_000, 0.7

#: How often many jobs run while another replica takes them over, and how many.
_HAS_CROWD, CROWD = 0.04, 30

#: How often many jobs wait while nothing goes wrong, and how many at least.
_HAS_RUSH, _RUSH = 0.05, 16

#: Those of one replica, never of all.
_OF_ONE = frozenset({"kill", "freeze", "ambush_kill", "ambush_freeze", "restart", "clock"})

#: The points of a submission at which a replica is ambushed.
POINTS = ("before", "connected", "sent", "answered")

#: How often the database refuses writes for a while.
_HAS_REFUSAL = 0.3

#: How often clients open a second websocket beside their first.
_HAS_SECOND = 0.2

#: How often all replicas but one do not reach the cloud, so that the lead is handed over.
_HAS_HANDOVER = 0.08

#: Rates that are not those of the weather alone.
_HOOKS = {"hook_lost": 0.2, "hook_refused": 0.2}


def drawn(seed: int) -> Plan:
    """Return the plan of a seed."""
    plan = _drawn(seed)
    crowd = random.Random(f"crowd {seed}")
    if plan.replicas > 1 and plan.faults and crowd.random() < _HAS_CROWD:
        plan = _with_crowd(plan, crowd)
    rng = random.Random(f"deployment {seed}")
    has_deployment = seed >= DEPLOYMENTS and rng.random() < _HAS_DEPLOYMENT
    plan = _with_deployment(plan, rng) if has_deployment else plan
    limits = random.Random(f"limits {seed}")
    rush = random.Random(f"rush {seed}")
    if plan.deployment is None and rush.random() < _HAS_RUSH:
        plan = _with_rush(plan, rush)
    plan = replace(plan, members=_members(limits, in_turns=plan.is_rush))
    return _with_more(plan, random.Random(f"more {seed}"))


def _members(rng: random.Random, *, in_turns: bool) -> tuple[Member, ...]:
    """Return the members with their limits. Where they have turns, none may have a limit of its
    own that leaves its turn to others."""
    members = []
    for name in MEMBERS:
        limits = limits_of(rng, name, 0.2)
        if in_turns:
            limits = Limits(credits_per_day=limits.credits_per_day)
        members.append(Member(name, limits=limits, weight=rng.choice((1.0, 1.0, 2.0, 0.5))))
    return tuple(members)


def limits_of(rng: random.Random, name: str, often: float) -> Limits:
    """Draw limits of a member, each of which it has so often."""
    running, a_day, waiting = (
        rng.choice(values) if rng.random() < often else None
        for values in ((1, 2), (2, 5, 10), (1, 2, 4))
    )
    return Limits(
        max_running=running,
        jobs_per_day=a_day,
        max_queued=waiting or MAX_QUEUED,
        credits_per_day=BUDGET if name == SPENDER else None,
    )


def _with_rush(plan: Plan, rng: random.Random) -> Plan:
    """Return a plan in which members submit many jobs at once, in front of others too, to an
    account that runs one or two."""
    clients = tuple(ClientPlan(member, listens=False) for member in ("ann", "bob", "ann"))
    kinds = ("submit", "submit", "submit_front", "submit_number")
    actions = (
        Action(
            rng.uniform(0.0, 3.0),
            rng.randrange(len(clients)),
            rng.choice(kinds),
            rng.getrandbits(32),
        )
        for _ in range(rng.randint(_RUSH, 2 * _RUSH))
    )
    return replace(
        plan,
        slots=rng.choice((1, 1, 2)),
        fixed_slots=True,
        seconds=1.0,
        accounts=1,
        clients=clients,
        actions=tuple(sorted(actions)),
        rates={},
        faults=(),
        is_rush=True,
    )


def _refusal(rng: random.Random, plan: Plan) -> Fault:
    """Draw a fault of the database: its disk is full, or it refuses what is for one table."""
    kind = rng.choice(("disk_full", "table_refused", "table_refused"))
    longest = 30.0 if kind == "disk_full" else 60.0
    return Fault(
        rng.uniform(1.0, plan.duration), kind, -1, rng.uniform(2.0, longest), rng.randrange(8)
    )


def _changes(plan: Plan) -> list[Fault]:
    """Draw what people change."""
    rng, weights = random.Random(f"changes {plan.seed}"), [often for often, *_ in _CHANGES.values()]
    count = rng.choice((1, 1, 2)) if rng.random() < _HAS_CHANGE else 0
    changes = {kind: _CHANGES[kind][1:] for kind in rng.choices([*_CHANGES], weights, k=count)}
    if plan.accounts > 1 and rng.random() < _HAS_REMOVAL:
        changes["account_removed"] = _ACCOUNT_REMOVED
    return [
        Fault(rng.uniform(1.0, plan.duration), kind, -1, rng.uniform(*seconds), rng.getrandbits(16))
        for kind, seconds in changes.items()
    ]


def _seconds(plan: Plan) -> list[Action]:
    """Draw second websockets of clients."""
    rng = random.Random(f"second {plan.seed}")
    if rng.random() > _HAS_SECOND:
        return []
    return [
        Action(rng.uniform(0.0, plan.duration), number, "second", rng.getrandbits(32))
        for number, client in enumerate(plan.clients)
        if client.listens
    ]


def _handover(plan: Plan) -> list[Fault]:
    """Draw that all replicas but one do not reach the cloud for a while."""
    rng = random.Random(f"handover {plan.seed}")
    if plan.replicas == 1 or rng.random() > _HAS_HANDOVER:
        return []
    able, at, seconds = (
        rng.randrange(plan.replicas),
        rng.uniform(5.0, 15.0),
        rng.uniform(20.0, 60.0),
    )
    return [
        Fault(at, "cloud", replica, seconds, 0)
        for replica in range(plan.replicas)
        if replica != able
    ]


def _with_more(plan: Plan, rng: random.Random) -> Plan:
    """Return a plan with what is drawn beside all that others draw."""
    rates = {
        name: rng.uniform(0.2, 1.0) * highest
        for name, highest in NEWER_RATES.items()
        if rng.random() < 0.35
    }
    calm = not plan.rates and not plan.faults
    aimed = (
        Action(
            rng.uniform(0.0, plan.duration),
            rng.randrange(len(plan.clients)),
            rng.choice(("cancel_sent", "interrupt_sent", *(() if calm else ("interrupt_killed",)))),
            rng.getrandbits(32),
        )
        for _ in range(rng.choice((0, 0, 1, 3)))
    )
    storage = random.Random(f"storage {plan.seed}")
    refused = () if calm or storage.random() > _HAS_REFUSAL else (_refusal(storage, plan),)
    ids = random.Random(f"ids {plan.seed}")
    more = () if calm else (*refused, *_changes(plan), *_handover(plan))
    plan = replace(
        plan,
        previews=True,
        faults=(*plan.faults, *more),
        ids=ids.choice(("refused", "the same job")) if ids.random() < _HONOURS_IDS else "",
        actions=tuple(sorted((*plan.actions, *aimed))),
        strangers=rng.choice((0, 0, 0, 0, 3, 250)),  # more than a page has
        credits_per_second=random.Random(f"price {plan.seed}").choice((0.0, 0.0, 0.002, 0.27)),
        rates=plan.rates if calm else {**plan.rates, **rates},
    )
    return replace(plan, actions=tuple(sorted((*plan.actions, *_seconds(plan)))))


def _drawn(seed: int) -> Plan:
    rng = random.Random(f"plan {seed}")
    alone = rng.random() < 0.2
    replicas = 1 if alone else rng.choice((1, 2, 2, 3, 3))
    calm = rng.random() < 0.1
    duration = rng.choice((15.0, 30.0, 30.0, 60.0))
    # Without other replicas nothing but the engine's table keeps what has ended out of the queue: a
    # reading that began before, and fails or succeeds again, must not bring it back.
    unread = alone and random.Random(f"unread {seed}").random() < 0.5
    clients = tuple(
        ClientPlan(rng.choice((MEMBERS[0], *MEMBERS)), rng.random() < 0.7)
        for _ in range(rng.randint(1, 4))
    )
    return Plan(
        seed=seed,
        replicas=replicas,
        alone=alone,
        slots=rng.choice((1, 1, 2, 3, 5)),
        fixed_slots=rng.random() < 0.7,
        seconds=rng.choice((1.0, 3.0, 8.0)),
        duration=duration,
        in_order=rng.random() < 0.15,
        hook=rng.random() < 0.4,
        reads_often=random.Random(f"reads {seed}").random() < 0.4 or unread,
        accounts=random.Random(f"accounts {seed}").choice((1, 1, 1, 2)),
        previews=random.Random(f"previews {seed}").random() < 0.3,
        skews=tuple(
            rng.uniform(-3600, 3600) if rng.random() < 0.5 else 0.0 for _ in range(replicas)
        ),
        rates={} if calm else _rates(rng) | _more_rates(seed, unread=unread),
        clients=clients,
        actions=_actions(rng, clients, duration),
        faults=()
        if calm
        else _faults(rng, replicas, duration) + _more_faults(seed, replicas, duration),
    )


def _with_crowd(plan: Plan, rng: random.Random) -> Plan:
    """Return a plan in which many jobs run as another replica takes them over, while the database
    is slow."""
    client = len(plan.clients)  # without a websocket: its jobs run at once
    submits = (
        Action(rng.uniform(0.0, 4.0), client, "submit", rng.getrandbits(32)) for _ in range(CROWD)
    )
    at = rng.uniform(8.0, 12.0)
    faults = (
        Fault(at, "slow_database", -1, rng.uniform(60.0, 90.0), 0),
        Fault(at + 2.0, "frozen_write", -1, rng.uniform(30.0, 45.0), 0),
    )
    return replace(
        plan,
        slots=CROWD,
        fixed_slots=True,
        seconds=rng.uniform(20.0, 40.0),
        clients=(*plan.clients, ClientPlan(MEMBERS[0], listens=False)),
        actions=tuple(sorted((*plan.actions, *submits))),
        faults=(*plan.faults, *faults),
    )


def drawn_long(seed: int) -> Plan:
    """Return the plan of a run of hours: what is drawn for some seeds, one after the other, with
    pauses between. Some faults last as many minutes as others do seconds, and so do jobs. A calm
    run stays calm."""
    rng = random.Random(f"long {seed}")
    plan = drawn(seed)
    hours = rng.choice(HOURS)
    actions, faults = list(plan.actions), list(plan.faults)
    for _ in range(rng.choice((2, 6, 20))):
        begins = rng.uniform(0.0, hours * 3600.0)
        more = _drawn(rng.getrandbits(32))
        actions += (
            action._replace(at=begins + action.at, client=action.client % len(plan.clients))
            for action in more.actions
        )
        faults += (
            fault._replace(
                at=begins + fault.at,
                replica=min(fault.replica, plan.replicas - 1),
                seconds=fault.seconds * (1 if fault.kind == "clock" else rng.choice((1, 1, 60))),
            )
            for fault in (more.faults if plan.faults or plan.rates else ())
        )
    return replace(
        plan,
        seconds=plan.seconds * rng.choice((1, 1, 60)),
        duration=hours * 3600.0 + plan.duration,
        actions=tuple(sorted(actions)),
        faults=tuple(sorted(faults)),
        is_long=True,
        after_noon=rng.uniform(0.0, 12.0) * 3600.0,
    )


def _with_deployment(plan: Plan, rng: random.Random) -> Plan:
    """Return a plan with a deployment beside its accounts, or in the place of them."""
    is_alone = rng.random() < 0.4
    calm = not plan.rates and not plan.faults
    kinds = rng.choices(("cancel", "interrupt"), k=rng.choice((0, 3, 8)))
    ends = (
        Action(
            rng.uniform(0.0, plan.duration),
            rng.randrange(len(plan.clients)),
            kind,
            rng.getrandbits(32),
        )
        for kind in kinds
    )
    deployment = DeploymentPlan(
        members=() if is_alone else rng.choice(((), MEMBERS[:1], MEMBERS)),
        labels=rng.choice(("kept", "kept", "kept", "forgotten", "refused")),
        streams=rng.random() < 0.9,
        polls_progress=rng.random() < 0.7,
        tells_times=rng.random() < 0.7,
        names_nodes=rng.random() < 0.8,
        workers=plan.slots if calm else rng.choice((1, plan.slots)),
        is_cold=rng.random() < 0.3 and not calm,
    )
    rates = {
        name: rng.uniform(0.2, 1.0) * highest
        for name, highest in DEPLOYMENT_RATES.items()
        if rng.random() < 0.4
    }
    weights = [often for often, *_ in _DEPLOYMENT_FAULTS.values()]
    outages = rng.choices([*_DEPLOYMENT_FAULTS], weights, k=rng.choice((0, 1, 1, 2)))
    faults = (
        Fault(rng.uniform(1.0, plan.duration), kind, -1, rng.uniform(least, most), 0)
        for kind in outages
        for _, least, most in (_DEPLOYMENT_FAULTS[kind],)
    )
    return replace(
        plan,
        deployment=deployment,
        actions=tuple(sorted((*plan.actions, *ends))),
        accounts=0 if is_alone else plan.accounts,
        rates=plan.rates if calm else {**plan.rates, **rates},
        faults=plan.faults if calm else (*plan.faults, *faults),
    )


def _rates(rng: random.Random) -> dict[str, float]:
    often = rng.choice((0.1, 0.3, 0.7))
    return {
        name: rng.uniform(0.2, 1.0) * highest
        for name, highest in {**RATES, **_HOOKS}.items()
        if rng.random() < often
    }


def _actions(
    rng: random.Random, clients: tuple[ClientPlan, ...], duration: float
) -> tuple[Action, ...]:
    count = rng.choice((4, 8, 14))
    kinds = rng.choices(list(_ACTIONS), list(_ACTIONS.values()), k=count)
    return tuple(
        sorted(
            Action(
                rng.uniform(0.0, duration), rng.randrange(len(clients)), kind, rng.getrandbits(32)
            )
            for kind in ("submit", *kinds)
        )
    )


def _faults(rng: random.Random, replicas: int, duration: float) -> tuple[Fault, ...]:
    count = rng.choice((0, 1, 1, 2, 2, 3, 5))
    kinds = rng.choices(list(_FAULTS), [often for often, *_ in _FAULTS.values()], k=count)
    return tuple(
        sorted(
            Fault(
                rng.uniform(1.0, duration),
                kind,
                rng.randrange(replicas) if kind in _OF_ONE or rng.random() < 0.6 else -1,
                rng.uniform(*_FAULTS[kind][1:]),
                rng.choice((0, rng.randrange(20), rng.randrange(400))),
            )
            for kind in kinds
        )
    )


def _more_rates(seed: int, *, unread: bool) -> dict[str, float]:
    """Return some of `MORE_RATES`; with `unread` many readings of an account's jobs fail."""
    rng = random.Random(f"rates {seed}")
    rates = {
        name: rng.uniform(0.2, 1.0) * highest
        for name, highest in MORE_RATES.items()
        if rng.random() < 0.3
    }
    values = random.Random(f"values {seed}")
    refused = {"value_refused": values.uniform(0.05, 0.3)} if values.random() < 0.1 else {}
    return rates | ({"list_lost": 0.8} if unread else {}) | refused


def _more_faults(seed: int, replicas: int, duration: float) -> tuple[Fault, ...]:
    """Return up to two of `_MORE_FAULTS`, and sometimes a slow database or a replica that reaches
    no other one: they are drawn beside all others."""
    rng = random.Random(f"faults {seed}")
    weights = [often for often, *_ in _MORE_FAULTS.values()]
    kinds = rng.choices(list(_MORE_FAULTS), weights, k=rng.choice((0, 0, 1, 2)))
    slow = random.Random(f"slow {seed}")
    slows = [Fault(slow.uniform(0.5, 5.0), "slow_database", -1, slow.uniform(10.0, 40.0), 0)]
    apart = random.Random(f"apart {seed}")
    at, replica = apart.uniform(0.5, 10.0), apart.randrange(replicas)
    aparts = [Fault(at, "peer", replica, apart.uniform(10.0, 30.0), 0)]
    return (
        *(
            Fault(rng.uniform(1.0, duration), kind, -1, rng.uniform(*_MORE_FAULTS[kind][1:]), 0)
            for kind in kinds
        ),
        *(slows if slow.random() < 0.12 else ()),
        *(aparts if apart.random() < 0.2 else ()),
    )


def _only(items: tuple, places: Collection[int] | None) -> tuple:
    return tuple(item for place, item in enumerate(items) if places is None or place in places)
