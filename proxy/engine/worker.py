"""One account at work: its socket, its submissions and the jobs that are there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace

from proxy.cloud.client import Submission
from proxy.cloud.event_socket import EventSocket
from proxy.cloud.resilience import CloudError, jittered
from proxy.engine.accounts import Account
from proxy.engine.part import AGAIN, WithdrawnError
from proxy.engine.reconciler import Reconciler
from proxy.engine.router import EventRouter
from proxy.engine.submitter import SubmissionError, Submitter
from proxy.jobs.models import (
    Job,
)
from proxy.storage.database import StorageError
from proxy.translate import workflow_metadata
from proxy.translate.codec import CREDENTIAL_KEYS

if TYPE_CHECKING:
    from proxy.engine.engine import Engine

log = structlog.get_logger(__name__)

#: Seconds between two looks at an account's plan, at most.
_PLAN_INTERVAL = 600.0


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
        policy = engine.policy
        self.socket = EventSocket(
            account.cloud.base_url,
            account.key,
            on_event=self.router.on_event,
            on_frame=self.router.on_frame,
            on_up=self._socket_opened,
            on_down=self._socket_lost,
            due=self.any_running,
            timeouts=engine.timeouts,
            plain_http=account.plain_http,
            observations=account.cloud.observations,
        )
        self.submitter = Submitter(
            account.cloud,
            known=engine.known,
            expecting=self.router.submission,
            patience=policy.submit_patience,
        )
        self.reconciler = Reconciler(account, self.jobs, self.socket, policy)
        self._engine = engine
        self._worth_waiting = True
        self._plan_changed = asyncio.Event()

    # --- the account -----------------------------------------------------------------------

    async def use_key(self, key: str) -> None:
        """Take another key for calls and events, and read the jobs with it."""
        self.account.use_key(key)
        await self.socket.use_key(key)
        self.reconciler.read_soon()
        self._plan_changed.set()

    async def follow_plan(self) -> None:
        """Read what the account tells of its plan, now, after another key and once in a while."""
        while True:
            self._plan_changed.clear()
            if await self.account.read_plan():
                self._engine.dispatcher.pump()
            with suppress(TimeoutError):
                async with asyncio.timeout(jittered(_PLAN_INTERVAL)):
                    await self._plan_changed.wait()

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
        await engine.recorder.load_content(job)
        graph = await self._prepared(job)
        extra_data = {**job.extra_data, **job.credentials}
        for name in ("client_id", "create_time", workflow_metadata.FIELD):
            extra_data.pop(name, None)
        lends = engine.policy.send_partner_key and not CREDENTIAL_KEYS & extra_data.keys()
        if job.cancel_requested or job.interrupted:
            raise WithdrawnError
        try:
            submitted = await self.submitter.submit(
                job, graph, extra_data, beside=partial(self._beside, lends=lends), patience=patience
            )
        except SubmissionError as error:
            error.refusal.node_errors = engine.packs.view(job).node_errors(
                error.refusal.node_errors
            )
            raise
        if submitted.node_errors:
            shown = engine.packs.view(job).node_errors(submitted.node_errors)
            submitted = replace(submitted, node_errors=shown)
        return submitted

    def _beside(self, *, lends: bool) -> dict[str, Any]:
        """What goes beside a job's `extra_data`, directly before it does. Raises `FencedError`."""
        self._engine.recorder.term.check()
        return {"api_key_comfy_org": self.account.key} if lends else {}

    async def _prepared(self, job: Job) -> dict[str, Any]:
        """The graph with the account's names, when the files that it needs are there."""
        await self._open()
        files, known = self._engine.files, self._engine.catalog.known
        return await files.substitute(
            job.member, job.cloud_graph, choices=known, account=self.name, job=job.prompt_id
        )

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
