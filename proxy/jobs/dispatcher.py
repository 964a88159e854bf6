"""Brings waiting jobs to the cloud, each when its turn comes and a slot is free."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol

import structlog

from proxy.cloud.client import Submission
from proxy.cloud.errors import CloudError
from proxy.cloud.waits import Waits
from proxy.jobs.adoption import Adoption
from proxy.jobs.keeper import Keeper, now
from proxy.jobs.lane import Lane
from proxy.jobs.places import Places
from proxy.jobs.record import JobRecord
from proxy.jobs.request import Policy
from proxy.jobs.runner import Names, Runner
from proxy.jobs.submission import SubmissionError, UnansweredError
from proxy.members.member import Member
from proxy.store.base import StoreError
from proxy.translate.errors import LocalError
from proxy.translate.redact import credentials

log = structlog.get_logger(__name__)

#: The catalogue's word on a node class, or `None` while it has none.
KnownClass = Callable[[str], Mapping[str, Any] | None]

#: Seconds until jobs are tried again after a failure that is nobody's but ours (a full disk).
_OWN_FAULT = 2.0

#: How long, in seconds, a "not now" is waited out before a waiting job goes back into the line.
_BRIEFLY = 2.0

#: Seconds in which changes for others' queues are gathered before they are told.
_TELLING = 0.05

#: Between two tries to cancel a job on the cloud, or to write what must be written.
_AGAIN = Waits(first=0.5, longest=30.0)


class Files(Names, Protocol):
    """What a dispatch needs of the files."""

    async def ensure_sent(
        self, member: str, graph: Mapping[str, Any], *, choices: KnownClass, account: str
    ) -> None:
        """Send the uploads that a graph names, where the account has not had them."""

    def substitute(
        self, member: str, graph: dict[str, Any], *, choices: KnownClass, account: str
    ) -> dict[str, Any]:
        """The graph with the cloud's names on the account in place of the member's."""


class WithdrawnError(Exception):
    """The client has cancelled the job before it was sent."""


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
        self.adoption = Adoption(
            lambda record: lanes[record.account].submitter,
            self._found,
            self._absent,
            certain=policy.adoption_patience,
        )
        self.unreleased: dict[str, Runner | None] = {}
        self._keeper = keeper
        self._lanes = lanes
        self._files = files
        self._known_class = known_class
        self._send_partner_key = policy.send_partner_key
        self._extra_data: dict[str, dict[str, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._telling: asyncio.TimerHandle | None = None
        self._paused_until = 0.0
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
                self._spawn(self._cancel(record))
            elif record.cloud_id:
                record.accepted = True
                self._keeper.follow(record).release()
            else:
                if record.accepted and not record.cancelled:
                    ledger.add(record)
                self.adoption.add(record)

    async def close(self) -> None:
        """Stop; what waits is on disk."""
        self._closed = True
        for timer in (self._timer, self._telling):
            if timer is not None:
                timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.adoption.close()

    # --- the queue -------------------------------------------------------------------------

    def claim(self, record: JobRecord, extra_data: dict[str, Any]) -> bool:
        """Give a new job a place at once, if one is free for it. What waits could not use it."""
        self._extra_data[record.key] = extra_data
        lane = self.places.lane_for(record.member, probing=True)
        if lane is None:
            return False
        self.places.take(record, lane)
        return True

    def enqueue(self, record: JobRecord) -> None:
        """An accepted job waits for its turn, if that is not now."""
        self._keeper.ledgers[record.member].add(record)
        self.unreleased[record.key] = None
        self.places.line.add(record)
        self.pump()

    def pump(self) -> None:
        """Let go whatever may go now, and look again when a resting account has rested."""
        if self._closed:
            return
        if time.monotonic() >= self._paused_until:
            while (found := self.places.next()) is not None:
                record, lane = found
                self.places.take(record, lane)
                self._spawn(self._dispatch(record))
        self._changed()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakes = [self.places.wake(), self._paused_until]
        later = [at for at in wakes if at is not None and at > time.monotonic()]
        if later and len(self.places.line):
            wait = min(later) - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(wait, 0.001), self.pump)

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
            log.error("cancel_unsaved", job=record.prompt_id, error=str(error))

    def _gone(self, record: JobRecord) -> None:
        self._extra_data.pop(record.key, None)
        self._keeper.ledgers[record.member].remove(record.prompt_id)
        self._keeper.tell_status(record.member)
        log.info("job_discarded", job=record.prompt_id, member=record.member)
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

    # --- one job to the cloud --------------------------------------------------------------

    async def send(self, record: JobRecord, *, patience: float | None = None) -> Submission:
        """Send a job that has a place; its intent is on disk before.

        Raises `SubmissionError`, `UnansweredError`, `WithdrawnError`, `StoreError`, and
        `LocalError` when a file cannot be sent.
        """
        lane, member = self._lanes[record.account], record.member
        await lane.open()
        where = {"choices": self._known_class, "account": lane.name}
        await self._files.ensure_sent(member, record.graph, **where)  # type: ignore[arg-type]
        graph = self._files.substitute(member, record.graph, **where)  # type: ignore[arg-type]
        given = self._extra_data.get(record.key)
        extra_data = dict(record.extra_data if given is None else given)
        extra_data.pop("client_id", None)
        if given is None:
            extra_data.pop("create_time", None)
        if self._send_partner_key and "auth_token_comfy_org" not in extra_data:
            extra_data.setdefault("api_key_comfy_org", lane.account.key)
        if not record.cancelled:
            await self._keeper.save(record, self.places.turns_with(record))
        if record.cancelled:
            raise WithdrawnError
        return await lane.submitter.submit(record, graph, extra_data, patience=patience)

    async def taken(self, record: JobRecord, cloud_id: str) -> None:
        """The cloud has the job: follow it, or cancel it if it is not wanted any more."""
        record.cloud_id = cloud_id
        self._lanes[record.account].account.health.worked()
        if record.cancelled:
            self._spawn(self._cancel(record))
            return
        record.accepted = True
        given = self._extra_data.pop(record.key, {})
        runner = self._keeper.follow(record, credentials(given))
        if record.key in self.unreleased:
            self.unreleased[record.key] = runner
        else:
            runner.release()
        self._keeper.observers.dispatched(record, max(0, now() - record.create_time) / 1000)
        try:
            await self._keeper.save(record)
        except StoreError as error:
            log.error("accepted_job_unsaved", job=record.prompt_id, error=str(error))

    def rest(self, record: JobRecord, error: SubmissionError) -> None:
        """Note what a refused submission says of the account."""
        health = self._lanes[record.account].account.health
        if error.fault is None:
            health.worked()
            return
        was_well = health.well
        health.failed(error.fault, time.monotonic(), error.retry_after)
        if was_well:
            log.warning("account_rests", account=record.account, reason=error.fault)

    async def drop(self, record: JobRecord) -> None:
        """Forget a job that nobody was told of, or that was cancelled, and that did not go."""
        self._extra_data.pop(record.key, None)
        if record.account:
            self._lanes[record.account].account.health.unsettled()
            self.places.give_back(record)
        self.pump()
        try:
            await self._keeper.discard(record, turns=self.places.turns_with(record))
        except StoreError as error:
            log.error("record_left_behind", job=record.prompt_id, error=str(error))

    async def _dispatch(self, record: JobRecord) -> None:
        structlog.contextvars.bind_contextvars(job=record.prompt_id, member=record.member)
        try:
            submitted = await self.send(record, patience=_BRIEFLY)
        except WithdrawnError:
            await self.drop(record)
        except UnansweredError:
            self.adoption.add(record)
        except SubmissionError as error:
            self.rest(record, error)
            await self._not_taken(record, None if error.fault else error.refusal)
        except LocalError as error:
            passing = error.status >= 500 or error.status == 429
            if passing:
                self.rest(record, SubmissionError(error, "unreachable"))
            await self._not_taken(record, None if passing else error)
        except Exception as error:
            if isinstance(error, StoreError):
                log.error("dispatch_unsaved", error=str(error))
            else:
                log.exception("dispatch_failed")
            self._paused_until = time.monotonic() + _OWN_FAULT
            await self._not_taken(record, None)
        else:
            if submitted.node_errors:
                log.warning("nodes_left_out", nodes=sorted(submitted.node_errors))
            await self.taken(record, submitted.cloud_id)

    async def _not_taken(self, record: JobRecord, refusal: LocalError | None) -> None:
        """Back to its place in the line, or its end if it was refused for its own sake."""
        if record.cancelled:
            await self.drop(record)
            return
        account = self._lanes[record.account].account
        account.health.unsettled()
        self.places.give_back(record)
        if refusal is None:
            self.places.line.add(record)
            self.pump()
            try:
                await self._keeper.save(record, self.places.turns_with(record))
            except StoreError as error:
                log.warning("return_unsaved", error=str(error))
            return
        log.warning("job_refused", type=refusal.type, message=refusal.message)
        self._extra_data.pop(record.key, None)
        runner = self._keeper.refuse(record, _as_failure(refusal))
        if record.key in self.unreleased:
            self.unreleased[record.key] = runner
        else:
            runner.release()
        self.pump()

    # --- what an unanswered submission turns out to be -------------------------------------

    async def _found(self, record: JobRecord, cloud_id: str) -> None:
        new = not record.accepted and not record.cancelled
        await self.taken(record, cloud_id)
        if new:
            self._keeper.observers.accepted(record)
        self._keeper.tell_status(record.member)

    async def _absent(self, record: JobRecord) -> None:
        if record.accepted:
            await self._not_taken(record, None)
        else:
            await self.drop(record)

    async def _cancel(self, record: JobRecord) -> None:
        """Cancel what a client cancelled while it was on its way, until the cloud knows."""
        structlog.contextvars.bind_contextvars(job=record.prompt_id, member=record.member)
        failures = 0
        while True:
            try:
                if not failures:
                    await self._keeper.save(record)
                await self._lanes[record.account].cloud.cancel(record.cloud_id)
                await self._keeper.discard(record)
                break
            except (CloudError, StoreError) as error:
                failures += 1
                log.warning("cancel_untold", error=str(error))
                await asyncio.sleep(_AGAIN.after(failures))
        log.info("job_cancelled_on_its_way", cloud_job=record.cloud_id)
        self.left(record)

    # --- housekeeping ----------------------------------------------------------------------

    def _changed(self) -> None:
        self.places.changed()
        if self._telling is None and len(self.places.line.members()) > 1:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(_TELLING, self._tell_others)

    def _tell_others(self) -> None:
        """Tell members whose waiting jobs have moved up because of somebody else."""
        self._telling = None
        waiting = {key.partition("/")[0] for key in self.unreleased}
        self.places.forecast()  # of all members at once
        for member in self.places.line.members():
            if member in waiting:
                continue
            if self.remaining(member) != self._keeper.told.get(member):
                self._keeper.tell_status(member)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _as_failure(refusal: LocalError) -> dict[str, Any]:
    """A refusal of the cloud as the failure of a run, with the first node that it names."""
    node_id = next(iter(refusal.node_errors), None)
    about = refusal.node_errors.get(node_id, {}) if node_id is not None else {}
    errors = about.get("errors") or [] if isinstance(about, dict) else []
    said = [f"{one.get('message', '')}: {one.get('details', '')}".strip(": ") for one in errors]
    lines = [refusal.message, refusal.details, *said]
    return {
        "node_id": node_id,
        "node_type": about.get("class_type") if isinstance(about, dict) else None,
        "exception_type": refusal.type,
        "exception_message": "\n".join(line for line in dict.fromkeys(lines) if line),
        "traceback": [],
    }
