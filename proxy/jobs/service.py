"""Every member's jobs: taken in, followed to their end, kept, shown and cancelled."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import structlog

from proxy.cloud.errors import CloudError, CloudRefused
from proxy.jobs import submission
from proxy.jobs.adoption import Adoption
from proxy.jobs.keeper import Keeper, now
from proxy.jobs.listing import JobQuery
from proxy.jobs.reconcile import Reconciler
from proxy.jobs.record import JobRecord, Number
from proxy.jobs.runner import Names, Runner, Waits
from proxy.jobs.submission import Submitter, UnansweredError
from proxy.store.base import Store, StoreError
from proxy.translate.errors import LocalError, fill_node_errors, from_cloud, retry_header
from proxy.translate.messages import status
from proxy.translate.redact import credentials, without_credentials

log = structlog.get_logger(__name__)


class Cloud(submission.Cloud, Protocol):
    """What the jobs need of the cloud."""

    async def cancel(self, cloud_id: str) -> bool:
        """Cancel a job; false if it had ended."""


class Files(Names, Protocol):
    """What the jobs need of the files."""

    async def ensure_sent(
        self,
        member: str,
        graph: Mapping[str, Any],
        *,
        choices: Callable[[str], Mapping[str, Any] | None],
    ) -> None:
        """Send the uploads that a graph names, where another cloud has had them."""

    def substitute(
        self,
        member: str,
        graph: dict[str, Any],
        *,
        choices: Callable[[str], Mapping[str, Any] | None],
    ) -> dict[str, Any]:
        """The graph with the cloud's names in place of the member's."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checked `POST /prompt`. `extra_data` is the client's; `number` wins over `front`."""

    graph: dict[str, Any]
    client_id: str | None = None
    prompt_id: str | None = None
    number: float | None = None
    front: bool = False
    extra_data: dict[str, Any] = field(default_factory=dict)
    targets: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to `POST /prompt`."""

    prompt_id: str
    number: Number
    node_errors: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the jobs room. Times are seconds; `history_size` counts entries a member.

    `key` is the account's; it is lent to partner nodes if `send_partner_key`.
    """

    key: str
    send_partner_key: bool = True
    history_size: int = 10_000
    submit_patience: float = 30.0
    adoption_patience: float = 15.0
    status_interval: float = 5.0
    waits: Waits = field(default_factory=Waits)
    connected_wait: float = 10.0
    lost_wait: float = 1.5


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
        known_class: Callable[[str], Mapping[str, Any] | None],
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
        self._files = files
        self._known_class = known_class
        self._opened = opened
        self._worth_waiting = True
        self._policy = policy
        self._ledgers = self._keeper.ledgers
        self._runners = self._keeper.runners
        self._unreleased: dict[tuple[str, str], Runner] = {}
        self._submitting: set[tuple[str, str]] = set()
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._submitter = Submitter(
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
            self._submitter,
            self.reconciler.job_added,
            certain=policy.adoption_patience,
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
            await asyncio.sleep(self._policy.status_interval)
            for member, ledger in self._ledgers.items():
                clients = {job.client_id for job in ledger.live.values()} - {None}
                for client_id in clients:
                    self.hub.tell(member, client_id, status(len(ledger)))

    def use_key(self, key: str) -> None:
        """Lend and hide another key from now on, and read the live jobs with it."""
        self._policy = replace(self._policy, key=key)
        self._keeper.hide(key)
        self.reconciler.read_soon()

    def any_running(self) -> bool:
        """Whether a job of any member runs, so that events should come."""
        return any(runner.job.started_at is not None for runner in self._runners.values())

    def socket_opened(self) -> None:
        """Events come (again): read what was missed."""
        self._worth_waiting = True
        self.reconciler.read_soon()

    def socket_lost(self) -> None:
        """No events come: read instead."""
        self.router.socket_lost()
        self.reconciler.read_soon()

    # --- taking a job in -------------------------------------------------------------------

    async def submit(self, member: str, request: Request) -> Accepted:
        """Submit a job and follow it. Raises `LocalError`.

        Messages about the job wait for `release`. The number advances for refused requests too,
        as in ComfyUI.
        """
        number = self._next_number(request)
        record = JobRecord(
            prompt_id=request.prompt_id or str(uuid.uuid4()),
            member=member,
            number=number,
            graph=request.graph,
            extra_data=without_credentials(request.extra_data),
            targets=request.targets,
            client_id=request.client_id,
            create_time=now(),
        )
        record.extra_data["create_time"] = record.create_time
        place = (member, record.prompt_id)
        taken = place in self._submitting or record in self._adoption
        if taken or record.prompt_id in self._ledgers[member].live:
            raise LocalError(
                400,
                "invalid_prompt_id",
                "A job with this prompt_id is in the queue already; choose another one.",
                details=record.prompt_id,
            )
        self._submitting.add(place)
        try:
            return await self._submit(record, request)
        except StoreError as error:
            raise LocalError(
                503,
                "store_unavailable",
                "The proxy cannot write to its data folder, so it takes no job; free or repair "
                "the disk, then submit again.",
            ) from error
        finally:
            self._submitting.discard(place)

    async def _submit(self, record: JobRecord, request: Request) -> Accepted:
        member, choices = record.member, self._known_class
        await self._files.ensure_sent(member, request.graph, choices=choices)
        graph = self._files.substitute(member, request.graph, choices=choices)
        extra_data = {key: value for key, value in request.extra_data.items() if key != "client_id"}
        if self._policy.send_partner_key and "auth_token_comfy_org" not in extra_data:
            extra_data.setdefault("api_key_comfy_org", self._policy.key)
        await self._keeper.save(record)
        if self._worth_waiting:
            self._worth_waiting = await self._opened()
        try:
            submitted = await self._submitter.submit(record, graph, extra_data)
        except UnansweredError:
            self._adoption.add(record)
            raise
        except LocalError as error:
            await self._keeper.discard(record)
            error.node_errors = self._files.reveal(member, error.node_errors)
            error.details = self._files.reveal(member, error.details)
            raise
        node_errors = self._files.reveal(member, fill_node_errors(submitted.node_errors))
        record.cloud_id = submitted.cloud_id
        record.outputs_to_execute = self._output_nodes(record, node_errors)
        self._unreleased[record.member, record.prompt_id] = self._keeper.follow(
            record, credentials(request.extra_data)
        )
        self.reconciler.job_added()
        try:
            await self._keeper.save(record)
        except StoreError as error:
            log.error("accepted_job_unsaved", job=record.prompt_id, error=str(error))
        return Accepted(record.prompt_id, record.number, node_errors)

    def release(self, member: str, prompt_id: str) -> None:
        """The client has its answer: `status` and the job's messages may go out."""
        runner = self._unreleased.pop((member, prompt_id), None)
        if runner is not None:
            self._keeper.tell_status(member)
            runner.release()

    def _next_number(self, request: Request) -> Number:
        if request.number is not None:
            return request.number
        number = self._number
        self._number += 1
        return -number if request.front else number

    def _output_nodes(self, record: JobRecord, node_errors: Mapping[str, Any]) -> list[str]:
        """The output nodes that passed validation, as far as the catalogue knows the classes."""
        spoilt = set(node_errors)
        for about in node_errors.values():
            spoilt.update(str(node) for node in about["dependent_outputs"])
        return [
            node_id
            for node_id, node in record.graph.items()
            if node_id not in spoilt
            and (record.targets is None or node_id in record.targets)
            and isinstance(node, dict)
            and (self._known_class(str(node.get("class_type"))) or {}).get("output_node")
        ]

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
            self._unreleased.pop((job.member, job.prompt_id), None)
            self._keeper.leave(job)
            await runner.stop()
        else:
            runner.read_detail()
        return cancelled
