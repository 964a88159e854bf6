"""Takes jobs in: from a checked request to a job that is on disk, on the cloud and followed."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import structlog

from proxy.jobs.adoption import Adoption
from proxy.jobs.keeper import Keeper, now
from proxy.jobs.reconcile import Reconciler
from proxy.jobs.record import JobRecord, Number
from proxy.jobs.request import Accepted, Policy, Request
from proxy.jobs.runner import Names, Runner
from proxy.jobs.submission import Submitter, UnansweredError
from proxy.store.base import StoreError
from proxy.translate.errors import LocalError, fill_node_errors
from proxy.translate.redact import credentials, without_credentials

log = structlog.get_logger(__name__)

#: The catalogue's word on a node class, or `None` while it has none.
KnownClass = Callable[[str], Mapping[str, Any] | None]


class Files(Names, Protocol):
    """What the intake needs of the files."""

    async def ensure_sent(
        self,
        member: str,
        graph: Mapping[str, Any],
        *,
        choices: KnownClass,
    ) -> None:
        """Send the uploads that a graph names, where another cloud has had them."""

    def substitute(
        self,
        member: str,
        graph: dict[str, Any],
        *,
        choices: KnownClass,
    ) -> dict[str, Any]:
        """The graph with the cloud's names in place of the member's."""


class Intake:
    """Numbers, records and submits.

    `opened` waits a little until the event socket is open, so that no event of a job comes before
    anybody hears it, and until the catalogue is there. It says whether the socket is; it is not
    waited for again until `socket_opened`.
    """

    def __init__(
        self,
        keeper: Keeper,
        submitter: Submitter,
        adoption: Adoption,
        reconciler: Reconciler,
        files: Files,
        known_class: KnownClass,
        opened: Callable[[], Awaitable[bool]],
        policy: Policy,
    ) -> None:
        self._keeper = keeper
        self._submitter = submitter
        self._adoption = adoption
        self._reconciler = reconciler
        self._files = files
        self._known_class = known_class
        self._opened = opened
        self._worth_waiting = True
        self._key = policy.key
        self._send_partner_key = policy.send_partner_key
        self._unreleased: dict[tuple[str, str], Runner] = {}
        self._submitting: set[tuple[str, str]] = set()
        self._number = 0

    def use_key(self, key: str) -> None:
        """Lend another key to partner nodes from now on."""
        self._key = key

    def socket_opened(self) -> None:
        """The event socket is open (again)."""
        self._worth_waiting = True

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
        if taken or record.prompt_id in self._keeper.ledgers[member].live:
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
        if self._worth_waiting:
            self._worth_waiting = await self._opened()
        member, choices = record.member, self._known_class
        await self._files.ensure_sent(member, request.graph, choices=choices)
        graph = self._files.substitute(member, request.graph, choices=choices)
        extra_data = {key: value for key, value in request.extra_data.items() if key != "client_id"}
        if self._send_partner_key and "auth_token_comfy_org" not in extra_data:
            extra_data.setdefault("api_key_comfy_org", self._key)
        await self._keeper.save(record)
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
        self._reconciler.job_added()
        try:
            await self._keeper.save(record)
        except StoreError as error:
            log.error("accepted_job_unsaved", job=record.prompt_id, error=str(error))
        return Accepted(record.prompt_id, record.number, node_errors)

    def release(self, member: str, prompt_id: str) -> None:
        """The client has its answer: `status` and the job's messages may go out."""
        runner = self._unreleased.pop((member, prompt_id), None)
        if runner is not None:
            runner.job.watched = self._keeper.hub.listens(member, runner.job.client_id)
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
