"""All jobs of all members at one moment, for who looks after the proxy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.keeper import Keeper
from proxy.jobs.record import JobRecord, Number

State = Literal["waiting", "sending", "pending", "running"]


@dataclass(frozen=True, slots=True)
class JobView:
    """A live job. Times are ms since 1970.

    `waiting` jobs are with us, `sending` ones on their way, `pending` and `running` ones on the
    `account`. A waiting one has `before` it so many jobs of anyone, and a `reason`: `turn`,
    `slot`, `client` (another job of its client has a slot), `limit` (the member's own), `disabled`
    (the member), `no_account`, or what the account rests for (`no_credits`, `dead_key`,
    `queue_limit`, `rate_limited`, `unreachable`). `progress` of a running job is from 0 to 1,
    `node` the one that runs.
    """

    member: str
    prompt_id: str
    number: Number
    state: State
    create_time: int
    account: str | None = None
    started_at: int | None = None
    before: int | None = None
    reason: str | None = None
    progress: float | None = None
    node: str | None = None
    node_type: str | None = None


def of(keeper: Keeper, dispatcher: Dispatcher) -> list[JobView]:
    """What runs, what is on the cloud or on its way, then what waits in the order of turns."""
    live = [job for ledger in keeper.ledgers.values() for job in ledger.live.values()]
    there = [_there(keeper, job) for job in live if job not in dispatcher.places.line]
    rank = {"running": 0, "pending": 1, "sending": 2}
    there.sort(key=lambda view: (rank[view.state], view.started_at or view.create_time))
    return [*there, *_waiting(dispatcher)]


def _there(keeper: Keeper, job: JobRecord) -> JobView:
    runner = keeper.runners.get(job.cloud_id) if job.cloud_id else None
    state: State = "running" if job.started_at is not None else "pending"
    tracker = None if runner is None or state == "pending" else runner.tracker
    node = None if tracker is None else tracker.display_node
    node_types = {} if tracker is None else tracker.node_types
    return JobView(
        member=job.member,
        prompt_id=job.prompt_id,
        number=job.number,
        state=state if job.cloud_id else "sending",
        create_time=job.create_time,
        account=job.account or None,
        started_at=job.started_at,
        progress=None if tracker is None else tracker.progress,
        node=node,
        node_type=None if node is None else node_types.get(node),
    )


def _waiting(dispatcher: Dispatcher) -> Iterator[JobView]:
    lines: dict[str, list[JobRecord]] = {}
    for place in dispatcher.places.forecast():
        if place.member not in lines:
            lines[place.member] = dispatcher.places.line.of(place.member)
        job = lines[place.member][place.index]
        yield JobView(
            member=job.member,
            prompt_id=job.prompt_id,
            number=job.number,
            state="waiting",
            create_time=job.create_time,
            before=place.before,
            reason=place.reason,
        )
