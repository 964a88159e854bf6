"""What the dashboard shows, and who is told when it changes."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.members.usage import Usage, day_of

if TYPE_CHECKING:
    from proxy.jobs.models import AccountView, Job, JobView, Outcome
    from proxy.jobs.service import JobService

#: So many failures are shown, of one member and in all.
FAILURES = 20

#: So many of the failures in the history are known after a start.
_REMEMBERED = 1000

#: Why a job waits, or an account rests.
REASONS = {
    "turn": "others have their turn first",
    "slot": "every slot is taken",
    "client": "another job of the same client_id runs, and this client follows one at a time",
    "limit": "as many as this member may run are running",
    "disabled": "the member is disabled",
    "no_account": "the member may use no account",
    "no_credits": "the account has no credits left",
    "dead_key": "the account's key does not work",
    "queue_limit": "the cloud takes no more jobs now",
    "rate_limited": "the cloud asks to wait",
    "unreachable": "the cloud cannot be reached",
}


class Bell:
    """Observes the jobs, remembers what failed, and wakes those who watch the dashboard."""

    def __init__(self) -> None:
        self.failed: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=FAILURES))
        self.members_version = 0
        self.closed = False
        self._watchers: set[asyncio.Event] = set()

    @contextmanager
    def heard(self) -> Iterator[asyncio.Event]:
        """An event that is set at each change for as long as the block runs."""
        woken = asyncio.Event()
        self._watchers.add(woken)
        try:
            yield woken
        finally:
            self._watchers.discard(woken)

    def ring(self) -> None:
        """Something has changed."""
        for woken in self._watchers:
            woken.set()

    def members_changed(self) -> None:
        """Members or tokens are others; somebody's access may have ended."""
        self.members_version += 1
        self.ring()

    def close(self) -> None:
        """Let nobody watch any more."""
        self.closed = True
        self.ring()

    def accepted(self, record: Job) -> None:
        """See `Observer`."""
        self.ring()

    def dispatched(self, record: Job, waited: float) -> None:
        """See `Observer`."""
        self.ring()

    def ended(
        self, record: Job, outcome: Outcome, running_seconds: float, output_count: int
    ) -> None:
        """See `Observer`."""
        if outcome == "failed":
            self.failed[record.member].append(record.prompt_id)
        self.ring()

    def discarded(self, record: Job) -> None:
        """See `Observer`."""
        self.ring()


@dataclass(frozen=True, slots=True)
class Board:
    """Reads the rooms. Times are ms since 1970."""

    jobs: JobService
    usage: Usage | None
    bell: Bell

    async def remember_failures(self) -> None:
        """Know of the failures that are in the history already, the oldest first.

        Raises `StorageError`.
        """
        for member, prompt_id in await self.jobs.failures(_REMEMBERED):
            self.bell.failed[member].append(prompt_id)

    async def state(self, member: str | None) -> dict[str, Any]:
        """Everything that changes, of one member or, for admins, of all (`None`).

        `{"time", "running", "waiting", "accounts", "usage", "failures"}`: jobs on the cloud or on
        their way, waiting ones in the order of turns, today's usage by member, and the newest
        failures first. Accounts are for admins alone.
        """
        now = time.time()
        seen = await self.jobs.overview(member)
        return {
            "time": int(now * 1000),
            "running": [_running(view) for view in seen.jobs if view.state != "waiting"],
            "waiting": [_waiting(view) for view in seen.jobs if view.state == "waiting"],
            "accounts": [] if member is not None else list(map(_account, seen.accounts)),
            "usage": await self._used(day_of(now), member),
            "failures": await self._failures(member),
        }

    async def _used(self, day: str, member: str | None) -> list[dict[str, Any]]:
        days = [] if self.usage is None else await self.usage.days(day, day, member)
        return [
            {
                "member": one.member,
                "jobs": one.used.submitted,
                "failed": one.used.failed,
                "seconds": one.used.running_seconds,
                "outputs": one.used.outputs,
            }
            for one in days
        ]

    async def _failures(self, member: str | None) -> list[dict[str, Any]]:
        shown = []
        for one in list(self.bell.failed) if member is None else [member]:
            for prompt_id in dict.fromkeys(self.bell.failed.get(one, ())):
                summary = await self.jobs.ended_summary(one, prompt_id)
                if summary is not None:
                    shown.append(_failure(one, summary))
        return sorted(shown, key=lambda job: -job["ended"])[:FAILURES]


def _account(view: AccountView) -> dict[str, Any]:
    return {
        "name": view.name,
        "slots": view.slots,
        "used": view.used,
        "reason": None if view.reason is None else REASONS[view.reason],
        "until": view.until,
        "events": view.events,
    }


def _running(view: JobView) -> dict[str, Any]:
    return {
        "id": view.prompt_id,
        "member": view.member,
        "state": view.state,
        "account": view.account or "",
        "created": view.create_time,
        "started": view.started_at,
        "progress": view.progress or 0.0,
        "node": view.node_type or view.node,
    }


def _waiting(view: JobView) -> dict[str, Any]:
    return {
        "id": view.prompt_id,
        "member": view.member,
        "number": view.number,
        "created": view.create_time,
        "turn": (view.before or 0) + 1,
        "reason": REASONS.get(view.reason or "", view.reason),
    }


def _failure(member: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    error = summary.get("execution_error") or {}
    return {
        "id": summary["id"],
        "member": member,
        "ended": summary["execution_end_time"],
        "node": error.get("node_type") or error.get("node_id") or "",
        "message": str(error.get("exception_message") or "").strip(),
    }
