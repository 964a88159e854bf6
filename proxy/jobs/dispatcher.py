"""The queue in front of the cloud: each job goes when its turn comes and a slot is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog

from proxy.jobs.keeper import Keeper, now
from proxy.jobs.lane import Lane
from proxy.jobs.places import Places
from proxy.jobs.record import JobRecord
from proxy.jobs.request import Policy
from proxy.jobs.sending import Files, KnownClass, Sender
from proxy.members.member import Member
from proxy.store.base import StoreError

log = structlog.get_logger(__name__)

#: Seconds in which changes for others' queues are gathered before they are told.
_TELLING = 0.05


class Dispatcher:
    """The queue in front of the cloud; the keeper's `places`."""

    def __init__(
        self,
        keeper: Keeper,
        lanes: Mapping[str, Lane],
        files: Files,
        known_class: KnownClass,
        member: Callable[[str], Member],
        policy: Policy,
    ) -> None:
        self.places = Places(lanes, member, policy.fair_by)
        self.sender = Sender(
            keeper, lanes, self.places, files, known_class, policy, freed=self.pump
        )
        self._keeper = keeper
        self._lanes = lanes
        self._unable_timeout = policy.unable_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._closed = False
        keeper.places = self

    # --- life ------------------------------------------------------------------------------

    def restore(self, records: Iterable[JobRecord]) -> None:
        """Go on with the jobs that were kept, in the order in which they had come."""
        for record in records:
            ledger = self._keeper.ledgers[record.member]
            if record.waits:
                ledger.add(record)
                self.places.line.add(record)
                continue
            if record.account not in self._lanes:
                record.account = next(iter(self._lanes))
            self.places.keep(record)
            if record.cancelled and record.cloud_id:
                self.sender.cancel(record)
            elif record.cloud_id:
                record.accepted = True
                self._keeper.follow(record).release()
            else:
                self.sender.unsettled(record)

    async def close(self) -> None:
        """Stop; what waits is on disk."""
        self._closed = True
        for timer in (self._timer, self._telling):
            if timer is not None:
                timer.cancel()
        await self.sender.close()

    # --- the queue -------------------------------------------------------------------------

    def claim(self, record: JobRecord, extra_data: dict[str, Any]) -> bool:
        """Give a new job a place at once, if one is free for it. What waits could not use it."""
        self.sender.extra_data[record.key] = extra_data
        lane = self.places.lane_for(record.member, probing=True)
        if lane is None or not self.places.may_go_at_once(record, lane):
            return False
        self.places.take(record, lane)
        return True

    def enqueue(self, record: JobRecord) -> None:
        """An accepted job waits for its turn, if that is not now."""
        self._keeper.ledgers[record.member].add(record)
        self.sender.unreleased[record.key] = None
        self.places.line.add(record)
        self.pump()

    def pump(self) -> None:
        """Let go whatever may go now, and look again when a resting account has rested."""
        if self._closed:
            return
        if time.monotonic() >= self.sender.paused_until:
            while (found := self.places.next()) is not None:
                record, lane = found
                self.places.take(record, lane)
                self.sender.begin(record)
        given_up = self._give_up()
        self._changed()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakes = [self.places.wake(), self.sender.paused_until, given_up]
        later = [at for at in wakes if at is not None and at > time.monotonic()]
        if later and len(self.places.line):
            wait = min(later) - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(wait, 0.001), self.pump)

    def _give_up(self) -> float | None:
        """End waiting jobs that no account has been able to take for too long.

        Returns when (`time.monotonic()`) the next one is due, if one is.
        """
        if not self._unable_timeout:
            return None
        at, wall, due = time.monotonic(), now(), []
        for member in self.places.line.members():
            found = self.places.unable(member)
            if found is None:
                continue
            since, refusal = found
            for record in self.places.line.of(member):
                waited = min(at - since, max(0, wall - record.create_time) / 1000)
                if waited < self._unable_timeout:
                    due.append(at + self._unable_timeout - waited)
                    continue
                self.places.line.remove(record)
                self.sender.refuse(record, refusal)
        return min(due, default=None)

    async def withdraw(self, records: list[JobRecord]) -> None:
        """Take waiting jobs out without a trace. Raises `StoreError`, and then they still wait."""
        line = self.places.line
        for record in records:
            line.remove(record)
        try:
            await self._keeper.discard(*records)
        except StoreError:
            for record in records:
                line.add(record)
            raise
        finally:
            self.pump()
        for record in records:
            self._gone(record)

    async def abandon(self, record: JobRecord) -> None:
        """Take out a job that is being sent: once it is on the cloud, it is cancelled there."""
        record.cancelled = True
        self._gone(record)
        try:
            await self._keeper.save(record)
        except StoreError as error:
            log.error("cancel_save_failed", job=record.prompt_id, error=str(error))

    def _gone(self, record: JobRecord) -> None:
        self.sender.extra_data.pop(record.key, None)
        self._keeper.ledgers[record.member].remove(record.prompt_id)
        self._keeper.tell_status(record.member)
        log.info("job_discarded", job=record.prompt_id, member=record.member)
        if record.accepted:
            self._keeper.observers.discarded(record)

    # --- what the keeper tells and asks (`keeper.Places`) -----------------------------------

    def started(self, job: JobRecord) -> None:
        """A job runs."""
        if self.places.started(job):
            self.pump()

    def left(self, job: JobRecord, running_seconds: float | None = None) -> None:
        """A job needs its place no more."""
        if running_seconds is not None:
            self.places.ended(job, running_seconds)
        if self.places.leave(job):
            self._lanes[job.account].account.health.eased(time.monotonic())
            self.pump()

    def remaining(self, member: str) -> int:
        """The member's own jobs, and others' that go before its last waiting one."""
        own = len(self._keeper.ledgers[member])
        return own + self.places.before(member) if own else 0

    # --- housekeeping ----------------------------------------------------------------------

    def _changed(self) -> None:
        self.places.changed()
        if self._telling is None and len(self.places.line.members()) > 1:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(_TELLING, self._tell_others)

    def _tell_others(self) -> None:
        """Tell members whose waiting jobs have moved up because of somebody else."""
        self._telling = None
        waiting = {key.partition("/")[0] for key in self.sender.unreleased}
        self.places.forecast()  # of all members at once
        for member in self.places.line.members():
            if member in waiting:
                continue
            if self.remaining(member) != self._keeper.told.get(member):
                self._keeper.tell_status(member)
