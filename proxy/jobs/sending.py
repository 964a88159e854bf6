"""Sends one job at a time to the cloud: what becomes of it there, or back in the line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import structlog

from proxy.cloud.client import Submission
from proxy.cloud.errors import CloudError
from proxy.cloud.resilience import Backoff
from proxy.jobs.adoption import Adoption
from proxy.jobs.keeper import Keeper, now
from proxy.jobs.lane import Lane
from proxy.jobs.localising import Names
from proxy.jobs.places import Places
from proxy.jobs.record import JobRecord
from proxy.jobs.request import Policy
from proxy.jobs.runner import Runner
from proxy.jobs.submission import SubmissionError, UnansweredError
from proxy.store.base import StoreError
from proxy.translate.codec import CREDENTIAL_KEYS, credentials
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: The catalogue's word on a node class, or `None` while it has none.
KnownClass = Callable[[str], Mapping[str, Any] | None]

#: Seconds until jobs are tried again after a failure that is nobody's but ours (a full disk).
_OWN_FAULT = 2.0

#: How long, in seconds, a "not now" is waited out before a waiting job goes back into the line.
_BRIEFLY = 2.0

#: Between two tries to cancel a job on the cloud, or to write what must be written.
_AGAIN = Backoff(first=0.5, longest=30.0)


class Files(Names, Protocol):
    """What a dispatch needs of the files."""

    async def ensure_sent(
        self, member: str, graph: Mapping[str, Any], *, choices: KnownClass, account: str
    ) -> None:
        """Send the uploads that a graph names, where the account has not had them."""

    async def substitute(
        self, member: str, graph: dict[str, Any], *, choices: KnownClass, account: str
    ) -> dict[str, Any]:
        """The graph with the cloud's names on the account in place of the member's."""


class WithdrawnError(Exception):
    """The client has cancelled the job before it was sent."""


class Sender:
    """Brings jobs that have a place to the cloud.

    `extra_data` has, by the key of a job that is not on the cloud, what its client has sent; keys
    of partner nodes are in memory only. `unreleased` has the jobs whose client has no answer yet,
    with their runner if there is one. Nothing should be begun before `paused_until`
    (`time.monotonic()`). `freed` is called when a place is free again.
    """

    def __init__(
        self,
        keeper: Keeper,
        lanes: Mapping[str, Lane],
        places: Places,
        files: Files,
        known_class: KnownClass,
        policy: Policy,
        freed: Callable[[], None],
    ) -> None:
        self.adoption = Adoption(
            lambda record: lanes[record.account].submitter,
            self._found,
            self._absent,
            certain=policy.adoption_patience,
        )
        self.extra_data: dict[str, dict[str, Any]] = {}
        self.unreleased: dict[str, Runner | None] = {}
        self.paused_until = 0.0
        self._keeper = keeper
        self._lanes = lanes
        self._places = places
        self._files = files
        self._known_class = known_class
        self._send_partner_key = policy.send_partner_key
        self._freed = freed
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, record: JobRecord) -> None:
        """Send a waiting job that has a place now."""
        self._spawn(self._dispatch(record))

    def cancel(self, record: JobRecord) -> None:
        """Cancel on the cloud what a client cancelled while it was on its way."""
        self._spawn(self._cancel(record))

    def unsettled(self, record: JobRecord) -> None:
        """List a job of which nobody knows whether the cloud has it, and look for it there.

        It counts as pending, so that a client which looks for it does not submit it again.
        """
        if not record.cancelled:
            self._keeper.ledgers[record.member].add(record)
        self.adoption.add(record)

    async def close(self) -> None:
        """Stop; what waits is on disk."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.adoption.close()

    async def send(self, record: JobRecord, *, patience: float | None = None) -> Submission:
        """Send a job that has a place; its intent is on disk before.

        Raises `SubmissionError`, `UnansweredError`, `WithdrawnError`, `StoreError`, and
        `LocalError` when a file cannot be sent.
        """
        lane, member = self._lanes[record.account], record.member
        await lane.open()
        where = {"choices": self._known_class, "account": lane.name}
        await self._files.ensure_sent(member, record.graph, **where)  # type: ignore[arg-type]
        graph = await self._files.substitute(member, record.graph, **where)  # type: ignore[arg-type]
        given = self.extra_data.get(record.key)
        extra_data = dict(record.extra_data if given is None else given)
        extra_data.pop("client_id", None)
        if given is None:
            extra_data.pop("create_time", None)
        lends = self._send_partner_key and not CREDENTIAL_KEYS & extra_data.keys()
        if not record.cancelled:
            await self._keeper.save(record, self._places.turns_with(record))
        if record.cancelled:
            raise WithdrawnError
        return await lane.submitter.submit(
            record,
            graph,
            extra_data,
            lent=lambda: {"api_key_comfy_org": lane.account.key} if lends else {},
            patience=patience,
        )

    async def taken(self, record: JobRecord, cloud_id: str) -> None:
        """The cloud has the job: follow it, or cancel it if it is not wanted any more."""
        record.cloud_id = cloud_id
        self._lanes[record.account].account.health.worked()
        if record.cancelled:
            self.cancel(record)
            return
        record.accepted = True
        given = self.extra_data.pop(record.key, {})
        runner = self._keeper.follow(record, credentials(given))
        if record.key in self.unreleased:
            self.unreleased[record.key] = runner
        else:
            runner.release()
        self._keeper.observers.dispatched(record, max(0, now() - record.create_time) / 1000)
        try:
            await self._keeper.save(record)
        except StoreError as error:
            log.error("accepted_job_save_failed", job=record.prompt_id, error=str(error))

    def rest(self, record: JobRecord, error: SubmissionError) -> None:
        """Note what a refused submission says of the account."""
        health = self._lanes[record.account].account.health
        if error.fault is None:
            health.worked()
            return
        was_well = health.well
        health.failed(error.fault, time.monotonic(), error.retry_after, error.refusal)
        if was_well:
            log.warning("account_suspended", account=record.account, reason=error.fault)

    async def drop(self, record: JobRecord) -> None:
        """Forget a job that nobody was told of, or that was cancelled, and that did not go."""
        self.extra_data.pop(record.key, None)
        if record.account:
            self._lanes[record.account].account.health.unsettled()
            self._places.give_back(record)
        self._freed()
        try:
            await self._keeper.discard(record, turns=self._places.turns_with(record))
        except StoreError as error:
            log.error("record_delete_failed", job=record.prompt_id, error=str(error))

    async def _dispatch(self, record: JobRecord) -> None:
        structlog.contextvars.bind_contextvars(job=record.prompt_id, member=record.member)
        try:
            submitted = await self.send(record, patience=_BRIEFLY)
        except WithdrawnError:
            await self.drop(record)
        except UnansweredError:
            self.unsettled(record)
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
                log.error("dispatch_save_failed", error=str(error))
            else:
                log.exception("dispatch_failed")
            self.paused_until = time.monotonic() + _OWN_FAULT
            await self._not_taken(record, None)
        else:
            if submitted.node_errors:
                log.warning("nodes_omitted", nodes=sorted(submitted.node_errors))
            await self.taken(record, submitted.cloud_id)

    async def _not_taken(self, record: JobRecord, refusal: LocalError | None) -> None:
        """Back to its place in the line, or its end if it was refused for its own sake."""
        if record.cancelled:
            await self.drop(record)
            return
        account = self._lanes[record.account].account
        account.health.unsettled()
        self._places.give_back(record)
        if refusal is None:
            self._places.line.add(record)
            self._freed()
            try:
                await self._keeper.save(record, self._places.turns_with(record))
            except StoreError as error:
                log.warning("return_save_failed", error=str(error))
            return
        self.refuse(record, refusal)
        self._freed()

    def refuse(self, record: JobRecord, refusal: LocalError) -> None:
        """Let an accepted job that has no place end as failed."""
        log.warning("job_refused", job=record.prompt_id, type=refusal.type, message=refusal.message)
        self.extra_data.pop(record.key, None)
        runner = self._keeper.refuse(record, _as_failure(refusal))
        if record.key in self.unreleased:
            self.unreleased[record.key] = runner
        else:
            runner.release()

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
            return
        self._keeper.ledgers[record.member].remove(record.prompt_id)
        await self.drop(record)
        self._keeper.tell_status(record.member)

    async def _cancel(self, record: JobRecord) -> None:
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
                log.warning("cancel_failed", error=str(error))
                await asyncio.sleep(_AGAIN.after(failures))
        log.info("job_cancelled", cloud_job=record.cloud_id)
        self._keeper.places.left(record)

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
