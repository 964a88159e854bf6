"""Brings jobs to the accounts: new ones within their requests, waiting ones in their turn."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import structlog

from proxy.engine.accounts import AccountHealth
from proxy.engine.submitter import SubmissionError, UnansweredError
from proxy.engine.tracker import SnapshotReceived
from proxy.jobs.models import Job, JobAnswered, JobKey, JobReceived, JobState, Needs, now
from proxy.members.member import KnownClass
from proxy.storage.database import StorageError
from proxy.storage.jobs import Shares
from proxy.translate.errors import LocalError, failure_of, fill_node_errors
from proxy.translate.jobs import Snapshot

if TYPE_CHECKING:
    from proxy.engine.engine import Engine
    from proxy.engine.worker import AccountWorker

from proxy.engine.part import AGAIN, EnginePart, WithdrawnError

log = structlog.get_logger(__name__)

#: Seconds until jobs are tried again after a failure that is nobody's but ours (a full disk).
_OWN_FAULT = 2.0

#: How long, in seconds, a "not now" is waited out before a waiting job goes back into the queue.
_BRIEFLY = 2.0

#: Seconds after which a job's messages flow although nobody has said that the client has its
#: answer, where another replica may have died that was to give it, and where none can say it.
_RELEASE, _RELEASE_SOON, _RELEASE_AWAY = 5.0, 2.0, 1.0


class _ElsewhereError(Exception):
    """The account cannot take the job, but another one that is well may."""


class Dispatcher(EnginePart):
    """Sends an engine's jobs where the scheduler has a slot, and deals with those not taken."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._files = engine.files
        self._catalog = engine.catalog
        self._known = engine.catalog.known
        self._paused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def close(self) -> None:
        """Let nothing go."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # --- new jobs --------------------------------------------------------------------------

    async def receive(self, said: JobReceived) -> None:
        """Take a new job in, and say so, or why not."""
        key = said.key
        structlog.contextvars.bind_contextvars(job=key.prompt_id, member=key.member)
        try:
            job = said.job or await self._recorder.read(key, said.order)
            if job is None or key in self._jobs:
                return
            job.answered = False
            self._jobs[key] = job
            node_errors, cloud_id = await self._place(job, said.found, promised=said.promised)
        except LocalError as refusal:
            self.answer(key, error=refusal)
        except WithdrawnError:
            says = "The job was cancelled before it was sent. It will not run."
            self.answer(key, error=LocalError("submission_withdrawn", says, kind="unavailable"))
        except StorageError as failure:  # it is stored, and found when that can be read
            log.error("job_read_failed", error=str(failure))
            self.answer(key, said.found)
        except Exception:
            log.exception("job_take_failed")
            says = "The proxy could not store the job. It will not run; the log has the reason."
            self.answer(key, error=LocalError("submission_failed", says, kind="internal"))
        else:
            self.answer(key, node_errors)
            with self._early_kept(job):
                await asyncio.sleep(0)  # the client gets its answer before anything else is done
            self._announcer.accepted(job)
            if cloud_id is not None:
                self._engine.taken(job, cloud_id)

    def _early_kept(self, job: Job) -> contextlib.AbstractContextManager[None]:
        """Keeps what the account of a job tells of it meanwhile: nothing follows the job yet."""
        worker = self._workers.get(job.account)
        return contextlib.nullcontext() if worker is None else worker.router.submission()

    def answer(
        self,
        key: JobKey,
        node_errors: Mapping[str, Any] | None = None,
        error: LocalError | None = None,
    ) -> None:
        """Tell the api that a job was taken in or refused."""
        if not self._recorder.term.lasts:
            return
        answer = JobAnswered(key, node_errors, error)
        self._bus.publish(f"answers.{key.member}.{key.prompt_id}", answer)
        if error is None:
            loop = asyncio.get_running_loop()
            wait = _RELEASE_SOON if self._recorder.jobs.shared else _RELEASE
            if not self._bus.connected:
                wait = _RELEASE_AWAY
            loop.call_later(wait, self._engine.release, key, True)

    async def _place(
        self, job: Job, found: dict[str, Any] | None, *, promised: bool
    ) -> tuple[dict[str, Any], str | None]:
        """Send a new job at once if there is a slot for it, or let it wait; its node errors, and
        its id on the cloud if it was sent.

        What waits could not use the slot. A job that is `promised` is no longer refused.
        """
        if not self._scheduler.has_account(job.member):
            await self.drop(job)
            raise LocalError(
                "no_account",
                "No Comfy Cloud account accepts jobs of this member; ask an admin to add the "
                "member to an account.",
                kind="forbidden",
            )
        job.needs = self.needs(job)
        may_go = not promised and job.failure is None
        while (
            may_go
            and (account := self._scheduler.account_for(job, time.monotonic(), probing=True))
            is not None
            and self._scheduler.may_go_at_once(job, account)
        ):
            self._scheduler.take(job, account)
            try:
                return await self._send_new(job, self._workers[account.name], found)
            except _ElsewhereError:
                self._scheduler.give_back(job)
            except StorageError as error:  # it is stored, and may wait
                log.error("send_save_failed", error=str(error))
                self._scheduler.give_back(job)
                self._paused_until = time.monotonic() + _OWN_FAULT
                break
        job.accepted = True
        job.outputs_to_execute = output_nodes(job, found or {}, self._known)
        job.to(JobState.QUEUED)
        self._recorder.changed(job)
        self._announcer.changed(job)
        if self.fails(job):
            return found or {}, None
        self._wait(job)
        self.pump()
        if job in self._scheduler.queue:
            self._announcer.explain(*next(self._scheduler.waiting(job.member, [job])))
        self._announcer.note_ahead(job.member, tell=False)
        return found or {}, None

    def _wait(self, job: Job) -> None:
        """Put a job into the queue. What its client sent is in the storage alone meanwhile."""
        job.content = None
        self._scheduler.queue.add(job)

    def needs(self, job: Job) -> Needs | None:
        """What a job names that not every account has, as far as the catalog tells."""
        graph = job.graph if job.rewriting is None else job.rewriting.graph
        found = self._catalog.accounts_for(graph)
        return None if found is None else Needs(*found)

    async def _may_run(self, job: Job, worker: AccountWorker) -> bool:
        """Whether the account has what a waiting job names, as far as is known by now."""
        await self._catalog.wait_loaded(self._engine.timeouts.catalog_patience)
        job.needs = self.needs(job)
        return worker.account in self._scheduler.usable(job)

    def fails(self, job: Job) -> bool:
        """Whether a node of the job has failed already: then the job ends with it."""
        failure = job.failure
        if failure is None:
            return False
        log.info("node_failed", job=job.prompt_id, error=failure.message[:200])
        self._engine.run(job, None)
        job.runner.fail(failure)
        return True

    async def _send_new(
        self, job: Job, worker: AccountWorker, found: dict[str, Any] | None
    ) -> tuple[dict[str, Any], str]:
        """Send a new job within its request, so that a refusal is the answer; its node errors and
        its id on the cloud.

        Raises `_ElsewhereError` if the account cannot take it and another one may.
        """
        elsewhere = self._scheduler.has_other(job)
        if job.state is not JobState.SUBMITTING:
            job.to(JobState.SUBMITTING)
        job.outputs_to_execute = output_nodes(job, found or {}, self._known)
        try:
            submitted = await worker.send(job, patience=0.0 if elsewhere else None)
        except UnansweredError:
            self._engine.recovery.lose_answer(job)
            raise
        except SubmissionError as error:
            self._note_refusal(job, error)
            if elsewhere and error.fault is not None:
                raise _ElsewhereError from error
            await self.drop(job)
            refusal = error.refusal
            refusal.node_errors = await self._files.reveal(
                job.member, refusal.node_errors, job.prompt_id
            )
            refusal.details = await self._files.reveal(job.member, refusal.details, job.prompt_id)
            raise refusal from error
        except LocalError as error:
            if elsewhere and error.is_passing:
                self._note_refusal(job, SubmissionError(error, "unreachable"))
                raise _ElsewhereError from error
            await self.drop(job)
            raise
        except StorageError:
            raise
        except Exception:
            await self.drop(job)
            raise
        node_errors = found or {}
        if submitted.node_errors:
            node_errors = {**node_errors, **fill_node_errors(submitted.node_errors)}
        if node_errors:
            with self._early_kept(job):
                node_errors = await self._files.reveal(job.member, node_errors, job.prompt_id)
            job.outputs_to_execute = output_nodes(job, node_errors, self._known)
        if not job.cancel_requested:
            job.accepted = True
            self._recorder.changed(job)
            self._announcer.changed(job)
        return node_errors, submitted.cloud_id

    # --- the queue -------------------------------------------------------------------------

    def pump(self) -> None:
        """Let go whatever may go now, and look again when a resting account has rested."""
        if self._closed or not self._recorder.term.lasts:
            return
        at = time.monotonic()
        if at >= self._paused_until:
            while (found := self._scheduler.next(at)) is not None:
                job, account = found
                self._scheduler.take(job, account)
                job.to(JobState.SUBMITTING)
                job.reason = job.message = None
                self._announcer.changed(job)
                self._engine.spawn(
                    self._send(job, self._workers[account.name]), f"send {job.prompt_id}"
                )
        due = self._give_up(at)
        self._announcer.tell_ahead()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wakes = [self._scheduler.wake(at), self._paused_until, due]
        later = [one for one in wakes if one is not None and one > at]
        if later and len(self._scheduler.queue):
            wait = max(min(later) - time.monotonic(), 0.001)
            self._timer = asyncio.get_running_loop().call_later(wait, self.pump)

    def _give_up(self, at: float) -> float | None:
        """End waiting jobs that no account has been able to take for too long.

        Returns when (`time.monotonic()`) the next one is due, if one is.
        """
        if not self._policy.unable_timeout:
            return None
        wall, due = now(), []
        for member in self._scheduler.queue.members():
            unable: dict[frozenset[str] | None, tuple[float, LocalError] | None] = {}
            for job in list(self._scheduler.queue.of(member)):
                accounts = None if job.needs is None else job.needs.accounts
                if accounts not in unable:
                    unable[accounts] = self._scheduler.unable(job)
                if (found := unable[accounts]) is None:
                    continue
                since, refusal = found
                waited = min(at - since, max(0, wall - job.create_time) / 1000)
                if waited < self._policy.unable_timeout:
                    due.append(at + self._policy.unable_timeout - waited)
                    continue
                self._scheduler.queue.remove(job)
                self.refuse(job, refusal)
        return min(due, default=None)

    async def _send(self, job: Job, worker: AccountWorker) -> None:
        """Send a job from the queue."""
        structlog.contextvars.bind_contextvars(job=job.prompt_id, member=job.member)
        try:
            await self._recorder.load_content(job)
            if job.failure is not None:
                # The process has ended before the job could.
                self.health(job).unsettled()
                self._scheduler.give_back(job)
                self.fails(job)
                self.pump()
                return
            if not await self._may_run(job, worker):
                await self.not_taken(job, None)
                return
            submitted = await worker.send(job, patience=_BRIEFLY)
        except WithdrawnError:
            await (self.not_taken(job, None) if job.interrupted else self.drop(job))
        except UnansweredError:
            self._engine.recovery.lose_answer(job)
        except SubmissionError as error:
            self._note_refusal(job, error)
            await self.not_taken(job, None if error.fault else error.refusal)
        except LocalError as error:
            if error.is_passing:
                self._note_refusal(job, SubmissionError(error, "unreachable"))
            await self.not_taken(job, None if error.is_passing else error)
        except Exception as error:
            if isinstance(error, StorageError):
                log.error("send_save_failed", error=str(error))
            else:
                log.exception("send_failed")
            self._paused_until = time.monotonic() + _OWN_FAULT
            await self.not_taken(job, None)
        else:
            if submitted.node_errors:
                log.warning("nodes_omitted", nodes=sorted(submitted.node_errors))
            self._engine.taken(job, submitted.cloud_id)

    # --- jobs that were not taken ----------------------------------------------------------

    async def not_taken(self, job: Job, refusal: LocalError | None) -> None:
        """Back to its place in the queue, or its end if it was refused for its own sake."""
        if job.cancel_requested:
            await self.drop(job)
            return
        self.health(job).unsettled()
        self._scheduler.give_back(job)
        if refusal is not None:
            self.refuse(job, refusal)
            self.pump()
            return
        job.to(JobState.QUEUED)
        if job.interrupted:
            self.interrupt(job)
            self.pump()
            return
        self._wait(job)
        self._announcer.changed(job)
        self.pump()
        self._recorder.changed(job, self._scheduler.shares_with(job))

    def interrupt(self, job: Job) -> None:
        """Let an accepted job that is on no account end as an interrupted run."""
        self._end(job, Snapshot(job.prompt_id, "cancelled", settled=True))

    def refuse(self, job: Job, refusal: LocalError) -> None:
        """Let an accepted job that is on no account end as failed, with a life of its own."""
        log.warning("job_refused", job=job.prompt_id, type=refusal.type, message=refusal.message)
        failure = failure_of(refusal)
        self._end(job, Snapshot(job.prompt_id, "failed", settled=True, execution_error=failure))

    def _end(self, job: Job, snapshot: Snapshot) -> None:
        """Give a job that is on no account its end, in a while if its content is to be read."""
        if job.content is None:
            self._engine.spawn(self._load_and_end(job, snapshot), f"end {job.prompt_id}")
            return
        self._engine.run(job, None)
        job.runner.post(SnapshotReceived(snapshot))

    async def _load_and_end(self, job: Job, snapshot: Snapshot) -> None:
        for failures in itertools.count(1):
            try:
                await self._recorder.load_content(job)
                break
            except StorageError as error:
                log.error("job_read_failed", job=job.prompt_id, error=str(error))
                await asyncio.sleep(AGAIN.after(failures))
            except LocalError:
                break  # it ends without its content
        if job.cancel_requested:
            await self.drop(job)
        else:
            self._end(job, snapshot)

    def health(self, job: Job) -> AccountHealth:
        """The health of the job's account."""
        return self._engine.accounts[job.account].health

    def _note_refusal(self, job: Job, error: SubmissionError) -> None:
        """Note what a refused submission says of the account."""
        health = self.health(job)
        if error.fault is None:
            health.renewed()
            return
        was_well = health.well
        health.failed(error.fault, time.monotonic(), error.retry_after, error.refusal)
        if was_well:
            log.warning("account_suspended", account=job.account, reason=error.fault)

    async def drop(self, job: Job) -> None:
        """Forget a job that nobody was sent of, or that was cancelled, and that did not go."""
        self._jobs.pop(job.key, None)
        if job.account:
            self.health(job).unsettled()
            self._scheduler.give_back(job)
        self.pump()
        await self.discard(job, self._scheduler.shares_with(job))

    async def discard(self, job: Job, shares: Shares | None = None, *, failures: int = 0) -> None:
        """Take a job out of the storage, later if that fails now: one that is gone must not run
        after a restart."""
        if failures:
            await asyncio.sleep(AGAIN.after(failures))
        try:
            await self._recorder.discard(job, shares=shares)
        except StorageError as error:
            log.error("record_delete_failed", job=job.prompt_id, error=str(error))
            again = self.discard(job, failures=failures + 1)
            self._engine.spawn(again, f"discard {job.prompt_id}")


def output_nodes(job: Job, node_errors: Mapping[str, Any], known: KnownClass) -> list[str]:
    """The output nodes that passed validation, as far as the catalog knows the classes."""
    spoilt = set(node_errors)
    for about in node_errors.values():
        spoilt.update(str(node) for node in about["dependent_outputs"])
    return [
        node_id
        for node_id, node in job.graph.items()
        if node_id not in spoilt
        and (job.targets is None or node_id in job.targets)
        and isinstance(node, dict)
        and (known(str(node.get("class_type"))) or {}).get("output_node")
    ]
