"""Every member's jobs: taken in, followed to their end, kept, shown and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from proxy.cloud.errors import CloudError, CloudRefused
from proxy.jobs import submission
from proxy.jobs.adoption import Adoption
from proxy.jobs.intake import Files, Intake, KnownClass
from proxy.jobs.keeper import Keeper
from proxy.jobs.listing import JobQuery
from proxy.jobs.reconcile import Reconciler
from proxy.jobs.record import JobRecord
from proxy.jobs.request import Accepted, Policy, Request
from proxy.jobs.submission import Submitter
from proxy.store.base import Store
from proxy.translate.errors import LocalError, from_cloud, retry_header
from proxy.translate.messages import status


class Cloud(submission.Cloud, Protocol):
    """What the jobs need of the cloud."""

    async def cancel(self, cloud_id: str) -> bool:
        """Cancel a job; false if it had ended."""


class Jobs:
    """The jobs of every member; `hub` knows who listens and `router` is fed by the socket.

    `known_class` gives the catalogue's word on a node class, or `None` while it has none.
    `connected` tells whether the event socket is open; `opened` waits a little until it is, so that
    no event of a job comes before anybody hears it, and says whether it is.
    """

    def __init__(
        self,
        *,
        store: Store,
        cloud: Cloud,
        files: Files,
        known_class: KnownClass,
        connected: Callable[[], bool],
        opened: Callable[[], Awaitable[bool]],
        policy: Policy,
    ) -> None:
        self._keeper = Keeper(
            store=store,
            cloud=cloud,
            names=files,
            secret=policy.key,
            history_size=policy.history_size,
            waits=policy.waits,
        )
        self.hub = self._keeper.hub
        self.router = self._keeper.router
        self._cloud = cloud
        self._status_interval = policy.status_interval
        self._ledgers = self._keeper.ledgers
        self._runners = self._keeper.runners
        self._tasks: list[asyncio.Task[None]] = []
        submitter = Submitter(
            cloud,
            known=self._keeper.knows,
            expecting=self.router.submission,
            patience=policy.submit_patience,
        )
        self.reconciler = Reconciler(
            cloud,
            lambda: self._runners,
            connected,
            connected_wait=policy.connected_wait,
            lost_wait=policy.lost_wait,
        )
        self._adoption = Adoption(
            self._keeper,
            submitter,
            self.reconciler.job_added,
            certain=policy.adoption_patience,
        )
        self._intake = Intake(
            self._keeper,
            submitter,
            self._adoption,
            self.reconciler,
            files,
            known_class,
            opened,
            policy,
        )

    # --- life of the room ------------------------------------------------------------------

    async def start(self) -> None:
        """Read what was kept and follow again what has not ended."""
        for record in await self._keeper.load():
            self._adoption.add(record)
        self._tasks = [
            asyncio.create_task(self.reconciler.run(), name="reconcile"),
            asyncio.create_task(self._keep_alive(), name="status heartbeat"),
        ]
        if self._runners:
            self.reconciler.job_added()
            self.reconciler.read_soon()

    async def close(self) -> None:
        """Stop following; the jobs go on on the cloud."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._adoption.close()
        await self._keeper.close()

    async def _keep_alive(self) -> None:
        """A `status` now and then, for clients that take a silent socket for a dead server."""
        while True:
            await asyncio.sleep(self._status_interval)
            for member, ledger in self._ledgers.items():
                clients = {job.client_id for job in ledger.live.values()} - {None}
                for client_id in clients:
                    self.hub.tell(member, client_id, status(len(ledger)))

    def use_key(self, key: str) -> None:
        """Lend and hide another key from now on, and read the live jobs with it."""
        self._intake.use_key(key)
        self._keeper.hide(key)
        self.reconciler.read_soon()

    def any_running(self) -> bool:
        """Whether a job of any member runs, so that events should come."""
        return any(runner.job.started_at is not None for runner in self._runners.values())

    def socket_opened(self) -> None:
        """Events come (again): read what was missed."""
        self._intake.socket_opened()
        self.reconciler.read_soon()

    def socket_lost(self) -> None:
        """No events come: read instead."""
        self.router.socket_lost()
        self.reconciler.read_soon()

    # --- taking a job in -------------------------------------------------------------------

    async def submit(self, member: str, request: Request) -> Accepted:
        """Submit a job and follow it; its messages wait for `release`. Raises `LocalError`."""
        return await self._intake.submit(member, request)

    def release(self, member: str, prompt_id: str) -> None:
        """The client has its answer: `status` and the job's messages may go out."""
        self._intake.release(member, prompt_id)

    # --- what clients see ------------------------------------------------------------------

    def queue_remaining(self, member: str) -> int:
        """How many jobs wait or run."""
        return len(self._ledgers[member])

    def queue_json(self, member: str) -> bytes:
        """The body of `GET /queue`."""
        return self._ledgers[member].queue_json()

    def history_json(self, member: str, *, max_items: int | None, offset: int | None) -> bytes:
        """The body of `GET /history`."""
        return self._ledgers[member].history_json(max_items, offset)

    def history_entry_json(self, member: str, prompt_id: str) -> bytes:
        """The body of `GET /history/{id}`."""
        return self._ledgers[member].history_entry_json(prompt_id)

    def list_jobs(self, member: str, query: JobQuery) -> dict[str, Any]:
        """The answer of `GET /api/jobs`."""
        return self._ledgers[member].list_jobs(query)

    def job(self, member: str, prompt_id: str) -> dict[str, Any] | None:
        """The answer of `GET /api/jobs/{id}`, or `None`."""
        return self._ledgers[member].job(prompt_id)

    # --- what clients end ------------------------------------------------------------------

    async def delete_pending(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Take waiting jobs out of the queue; they leave no trace, as in ComfyUI."""
        live = self._ledgers[member].live
        wanted = dict.fromkeys(prompt_ids)
        await self._cancel_all(
            [live[one] for one in wanted if one in live and live[one].started_at is None]
        )

    async def clear_pending(self, member: str) -> None:
        """Take all of the member's waiting jobs out of the queue."""
        await self._cancel_all(self._ledgers[member].pending())

    async def interrupt(self, member: str, prompt_id: str | None) -> None:
        """Stop what runs: the job named, if it runs, or else every running job of the member."""
        running = self._ledgers[member].running()
        await self._cancel_all(
            [job for job in running if prompt_id is None or job.prompt_id == prompt_id]
        )

    async def cancel(self, member: str, prompt_id: str) -> bool:
        """Cancel a waiting or running job; false if there is none to cancel."""
        job = self._ledgers[member].live.get(prompt_id)
        return job is not None and await self._cancel(job)

    async def delete_history(self, member: str, prompt_ids: Iterable[str]) -> None:
        """Forget ended jobs; nothing is deleted on the cloud."""
        await self._keeper.forget(member, list(prompt_ids))

    async def clear_history(self, member: str) -> None:
        """Forget all ended jobs of the member."""
        await self.delete_history(member, list(self._ledgers[member].ended))

    async def _cancel_all(self, jobs: list[JobRecord]) -> None:
        results = await asyncio.gather(*map(self._cancel, jobs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _cancel(self, job: JobRecord) -> bool:
        """Cancel by id. A waiting job is gone at once, a running one when the cloud says so."""
        runner = self._runners.get(job.cloud_id)
        if runner is None:
            return False
        try:
            cancelled = await self._cloud.cancel(job.cloud_id)
        except CloudRefused as error:
            raise from_cloud(error.status, error.body, error.retry_after) from error
        except CloudError as error:
            raise LocalError(
                503,
                "cloud_unreachable",
                "Comfy Cloud could not be told to cancel the job, which goes on; try again.",
                details=job.prompt_id,
                headers=retry_header(error.retry_after or 10.0),
            ) from error
        if cancelled and job.started_at is None and self._runners.get(job.cloud_id) is runner:
            await self._keeper.discard(job)
            self._keeper.leave(job)
            await runner.stop()
        else:
            runner.read_detail()
        return cancelled
