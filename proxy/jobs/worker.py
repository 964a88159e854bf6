"""One account's part of the engine: its event socket, submissions and jobs.

The account's live jobs are read from time to time, so that no lost event goes unnoticed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from proxy.cloud.client import Submission
from proxy.cloud.event_socket import EventSocket
from proxy.cloud.resilience import Backoff, CloudError, CloudRefused
from proxy.jobs.accounts import Account, Reason
from proxy.jobs.models import Job
from proxy.jobs.runner import EventRouter
from proxy.jobs.submitter import SubmissionError, Submitter
from proxy.jobs.tracker import GiveUp, SnapshotReceived
from proxy.storage.database import StorageError
from proxy.translate.codec import CREDENTIAL_KEYS
from proxy.translate.rewriting import MemberView
from proxy.translate.snapshot import Snapshot

if TYPE_CHECKING:
    from proxy.jobs.engine import Engine

log = structlog.get_logger(__name__)

#: Between two tries to cancel a job on the cloud, or to write what must be written.
AGAIN = Backoff(first=0.5, longest=30.0)


class WithdrawnError(Exception):
    """The client has cancelled the job before it was sent."""


class AccountWorker:
    """Brings jobs that have a slot on the account to the cloud, and follows them there.

    `jobs` has the account's jobs by cloud id.
    """

    def __init__(self, account: Account, engine: Engine) -> None:
        self.account = account
        self.name = account.name
        self.cloud = account.cloud
        self.slots = account.slots
        self.health = account.health
        self.jobs: dict[str, Job] = {}
        self.router = EventRouter()
        policy, timeouts = engine.policy, engine.timeouts
        self.socket = EventSocket(
            account.cloud.base_url,
            account.key,
            on_event=self.router.on_event,
            on_frame=self.router.on_frame,
            on_up=self._socket_opened,
            on_down=self._socket_lost,
            due=self.any_running,
            heartbeat=timeouts.heartbeat,
            watchdog=timeouts.watchdog(),
            backoff=timeouts.socket_backoff,
            plain_http=account.plain_http,
            observations=account.cloud.observations,
        )
        self.submitter = Submitter(
            account.cloud,
            known=engine.known,
            expecting=self.router.submission,
            patience=policy.submit_patience,
        )
        self.reconciler = Reconciler(
            account,
            self.jobs,
            self.socket,
            connected_wait=policy.connected_wait,
            lost_wait=policy.lost_wait,
            lost_timeout=policy.lost_timeout,
        )
        self._engine = engine
        self._worth_waiting = True

    # --- the account -----------------------------------------------------------------------

    async def use_key(self, key: str) -> None:
        """Take another key for calls and events, and read the jobs with it."""
        self.account.use_key(key)
        await self.socket.use_key(key)
        self.reconciler.read_soon()

    def any_running(self) -> bool:
        """Whether a job runs, so that events should come."""
        return any(job.started_at is not None for job in self.jobs.values())

    def _socket_opened(self) -> None:
        """Events come (again): read what was missed."""
        self._worth_waiting = True
        self.reconciler.read_soon()

    def _socket_lost(self) -> None:
        """No events come: read instead."""
        self.router.socket_lost()
        self.reconciler.read_soon()

    # --- jobs ------------------------------------------------------------------------------

    async def send(self, job: Job, *, patience: float | None = None) -> Submission:
        """Send a job that has a slot; its intent is on disk before.

        Raises `SubmissionError`, `UnansweredError`, `WithdrawnError`, `StorageError`, and
        `LocalError` when a file cannot be sent.
        """
        engine = self._engine
        if not await engine.recorder.save(job, engine.scheduler.shares_with(job)):
            raise WithdrawnError
        graph = await self._prepared(job)
        extra_data = {**job.extra_data, **job.credentials}
        extra_data.pop("client_id", None)
        extra_data.pop("create_time", None)
        lends = engine.policy.send_partner_key and not CREDENTIAL_KEYS & extra_data.keys()
        if job.cancel_requested:
            raise WithdrawnError
        try:
            submitted = await self.submitter.submit(
                job,
                graph,
                extra_data,
                beside=partial(self._beside, lends=lends),
                patience=patience,
            )
        except SubmissionError as error:
            error.refusal.node_errors = _of_member(job, error.refusal.node_errors)
            raise
        if submitted.node_errors:
            submitted = replace(submitted, node_errors=_of_member(job, submitted.node_errors))
        return submitted

    def _beside(self, *, lends: bool) -> dict[str, Any]:
        """What goes beside a job's `extra_data`, directly before it does. Raises `FencedError`."""
        self._engine.recorder.term.check()
        return {"api_key_comfy_org": self.account.key} if lends else {}

    async def _prepared(self, job: Job) -> dict[str, Any]:
        """The graph with the account's names, when the files that it needs are there."""
        await self._open()
        files, known = self._engine.files, self._engine.catalog.known
        graph = job.graph if job.rewriting is None else job.rewriting.graph
        return await files.substitute(job.member, graph, choices=known, account=self.name)

    def follow(self, job: Job) -> None:
        """Send the job's events to its runner, beginning with those that came too early."""
        assert job.runner is not None  # noqa: S101
        self.jobs[job.cloud_id] = job
        self.router.add(job.cloud_id, job.runner.post)
        self.reconciler.job_added()

    def forget(self, job: Job) -> None:
        """The job no longer needs events."""
        self.jobs.pop(job.cloud_id, None)
        self.router.remove(job.cloud_id)

    async def abandon(self, cloud_id: str) -> None:
        """Have the cloud end a job that has failed here."""
        try:
            await self.cloud.cancel(cloud_id)
        except CloudError as error:
            log.warning("cancel_failed", cloud_job=cloud_id, error=str(error))

    async def cancel_on_its_way(self, job: Job) -> None:
        """Cancel on the cloud what a client cancelled while it was on its way."""
        structlog.contextvars.bind_contextvars(job=job.prompt_id, member=job.member)
        failures = 0
        while True:
            try:
                if not failures:
                    await self._engine.recorder.save(job)
                self._engine.recorder.term.check()
                await self.cloud.cancel(job.cloud_id)
                await self._engine.recorder.discard(job)
                break
            except (CloudError, StorageError) as error:
                failures += 1
                log.warning("cancel_failed", error=str(error))
                await asyncio.sleep(AGAIN.after(failures))
        log.info("job_cancelled", cloud_job=job.cloud_id)
        self._engine.forget(job)

    async def _open(self) -> None:
        """Wait a little until events come, so that none of a job comes before anybody hears it.

        It is not waited for again until the socket has opened.
        """
        if self._worth_waiting:
            timeouts = self._engine.timeouts
            await self._engine.catalog.wait_loaded(timeouts.catalog_patience)
            self._worth_waiting = await self.socket.wait_connected(timeouts.socket_patience)


def _of_member(job: Job, node_errors: Mapping[str, Any]) -> dict[str, Any]:
    """Node errors of the cloud as those of the graph that the member has sent."""
    if job.rewriting is None or not node_errors:
        return dict(node_errors)
    return MemberView(job.rewriting, job.graph).node_errors(node_errors)


class Reconciler:
    """One list call for all live jobs; those that the list lacks are read one by one.

    `connected_wait` and `lost_wait` are the seconds between two readings while the event socket
    is open and while it is not; each is jittered. After a reading that failed they are twice as
    long each time, at most `longest_wait`, and never shorter than the cloud asked for. While the
    account's slots are being learned, one waiting job is asked why it waits.

    While the account cannot be read its jobs show the reason. If that lasts for `lost_timeout`
    seconds they end as lost; 0 waits for ever.
    """

    def __init__(
        self,
        account: Account,
        jobs: Mapping[str, Job],
        socket: EventSocket,
        *,
        connected_wait: float = 10.0,
        lost_wait: float = 1.5,
        longest_wait: float = 60.0,
        lost_timeout: float = 3600.0,
    ) -> None:
        self._cloud = account.cloud
        self._slots = account.slots
        self._jobs = jobs
        self._socket = socket
        self._connected_wait = connected_wait
        self._lost_wait = lost_wait
        self._longest_wait = longest_wait
        self._lost_timeout = lost_timeout
        self._live = asyncio.Event()
        self._now = asyncio.Event()
        self._failures = 0
        self._least_wait = 0.0
        self._unread_since: float | None = None

    def job_added(self) -> None:
        """There is a live job."""
        self._live.set()

    def read_soon(self) -> None:
        """The socket was lost or has come back: do not wait for the next reading."""
        self._now.set()

    async def run(self) -> None:
        """Continue until cancelled. While nothing is live, nothing is read."""
        while True:
            if not self._jobs:
                self._live.clear()
                await self._live.wait()
                self._now.clear()
            await self._pause()
            self._now.clear()
            if not self._jobs:
                continue
            try:
                await self.read()
            except Exception:
                self._failures += 1
                log.exception("live_jobs_read_crashed")

    async def read(self) -> None:
        """Read once. Jobs that are submitted meanwhile are left out."""
        live = dict(self._jobs)
        try:
            snapshots = await self._cloud.jobs(("pending", "in_progress"))
        except CloudError as error:
            self._failures += 1
            self._least_wait = error.retry_after or 0.0
            log.warning("live_jobs_read_failed", error=str(error))
            self._note_unread(error, live)
            return
        self._failures, self._least_wait = 0, 0.0
        if self._unread_since is not None:
            self._unread_since = None
            for job in live.values():
                if job.runner is not None:
                    job.runner.explain(None)
        await self._learn([one for one in snapshots if one.cloud_id in live])
        for snapshot in snapshots:
            if snapshot.cloud_id not in live:
                continue
            runner = live.pop(snapshot.cloud_id).runner
            if runner is not None and not runner.reading:
                runner.post(SnapshotReceived(snapshot, detail=False))
        for job in live.values():
            if job.runner is not None:
                job.runner.read_detail()

    def _note_unread(self, error: CloudError, live: Mapping[str, Job]) -> None:
        """Show why the account's jobs cannot be followed; end them when that has lasted."""
        if self._unread_since is None:
            self._unread_since = time.monotonic()
        lasted = time.monotonic() - self._unread_since
        reason: Reason = "unreachable"
        if isinstance(error, CloudRefused) and error.status in (401, 403):
            reason = "dead_key"
        for job in live.values():
            if job.runner is None:
                continue
            job.runner.explain(reason)
            if self._lost_timeout and lasted >= self._lost_timeout:
                log.error("job_lost", job=job.prompt_id, member=job.member, reason=reason)
                job.runner.post(GiveUp(_LOST[reason], lost=True))

    async def _learn(self, ours: list[Snapshot]) -> None:
        """Find out whether jobs wait because the account runs no more at once."""
        slots = self._slots
        if not slots.learning:
            return
        pending = [one for one in ours if one.status == "pending"]
        running = len(ours) - len(pending)
        if pending and not (slots.certain and running >= slots.count):
            with contextlib.suppress(CloudError):
                oldest = await self._cloud.job(pending[-1].cloud_id)
                limited = oldest is not None and oldest.queue_reason == "concurrency_limit"
                slots.held(len(pending) if limited else 0, running)

    async def _pause(self) -> None:
        """Wait for the next reading; `read_soon` cannot make it sooner than the cloud allows."""
        await asyncio.sleep(self._least_wait)
        usual = self._connected_wait if self._socket.connected else self._lost_wait
        wait = Backoff(usual, self._longest_wait).after(self._failures + 1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait - self._least_wait):
                await self._now.wait()


_LOST: Mapping[Reason, str] = {
    "dead_key": "Comfy Cloud no longer accepts the API key of the account of this job; find its "
    "outputs on the cloud with that account.",
    "unreachable": "Comfy Cloud was unreachable for too long; find the outputs of this job on the "
    "cloud with its account.",
}
