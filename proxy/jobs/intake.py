"""Takes jobs in: from a checked request to a job that is on disk, and on the cloud or in line."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog

from proxy.jobs.dispatcher import Dispatcher
from proxy.jobs.keeper import Keeper, now
from proxy.jobs.record import JobRecord, Number
from proxy.jobs.request import Accepted, Backlog, Request
from proxy.jobs.sending import Files, KnownClass
from proxy.jobs.submission import SubmissionError, UnansweredError
from proxy.store.base import StoreError
from proxy.translate.codec import without_credentials
from proxy.translate.errors import LocalError, fill_node_errors
from proxy.translate.validation import Validation

log = structlog.get_logger(__name__)

#: Whether a member may submit now: raises `LocalError` (429, 403) if not.
Admit = Callable[[str, Request, Backlog], None]

#: What is right and wrong with a graph, `None` if only the cloud can tell. Raises `LocalError`.
Check = Callable[[str, Request], Awaitable[Validation | None]]

#: Whether a job of a member's `client_id` waits for others of that client.
OneAtATime = Callable[[str, str | None], bool]


class _ElsewhereError(Exception):
    """The account cannot take the job, but another one that is well may."""


class Intake:
    """Admits, checks, numbers and records; submits at once what has its turn."""

    def __init__(
        self,
        keeper: Keeper,
        dispatcher: Dispatcher,
        files: Files,
        known_class: KnownClass,
        admit: Admit | None,
        check: Check | None,
        one_at_a_time: OneAtATime,
    ) -> None:
        self._keeper = keeper
        self._dispatcher = dispatcher
        self._sender = dispatcher.sender
        self._files = files
        self._known_class = known_class
        self._admit = admit
        self._check = check
        self._one_at_a_time = one_at_a_time
        self._submitting: set[tuple[str, str]] = set()
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._order = 0

    def restore(self, records: Iterable[JobRecord]) -> None:
        """Number on behind the jobs that were kept; a client's own numbers are no whole ones."""
        for record in records:
            self._order = max(self._order, record.order + 1)
            if isinstance(record.number, int):
                number = max(self._numbers[record.member], abs(record.number) + 1)
                self._numbers[record.member] = number

    async def submit(self, member: str, request: Request) -> Accepted:
        """Take a job in and follow it. Raises `LocalError`.

        Messages about the job wait for `release`. The number advances for refused requests too,
        as in ComfyUI.
        """
        if self._admit is not None:
            self._admit(member, request, self.backlog(member))
        record = self._record(member, request)
        place = (member, record.prompt_id)
        taken = place in self._submitting or record in self._sender.adoption
        if taken or record.prompt_id in self._keeper.ledgers[member].live:
            raise LocalError(
                400,
                "invalid_prompt_id",
                "A job with this prompt_id is in the queue already; choose another one.",
                details=record.prompt_id,
            )
        if not self._dispatcher.places.has_account(member):
            raise LocalError(
                403,
                "no_account",
                "No Comfy Cloud account takes jobs of this member; ask who runs the proxy to add "
                "the member to an account.",
            )
        self._submitting.add(place)
        try:
            found = None if self._check is None else await self._check(member, request)
            if found is not None:
                record.graph = found.kept(record.graph)
            if found is not None and found.node_errors:
                # The cloud may take a graph that is partly wrong for one that is refused.
                record.targets = found.outputs
            while self._dispatcher.claim(record, request.extra_data):
                try:
                    node_errors = await self._submit(record, found)
                    break
                except _ElsewhereError:
                    continue
            else:
                node_errors = await self._enqueue(record, found)
        except StoreError as error:
            raise LocalError(
                503,
                "store_unavailable",
                "The proxy cannot write to its data folder, so it takes no job; free or repair "
                "the disk, then submit again.",
            ) from error
        finally:
            self._submitting.discard(place)
        self._keeper.observers.accepted(record)
        return Accepted(record.prompt_id, record.number, node_errors)

    def backlog(self, member: str) -> Backlog:
        """How many jobs of the member wait and how many are on the cloud."""
        places = self._dispatcher.places
        return Backlog(places.line.count(member), places.on_cloud(member))

    def release(self, member: str, prompt_id: str) -> None:
        """The client has its answer: `status` and the job's messages may go out."""
        key = JobRecord.key_of(member, prompt_id)
        if key not in self._sender.unreleased:
            return
        runner = self._sender.unreleased.pop(key)
        record = self._keeper.ledgers[member].live.get(prompt_id)
        if record is not None:
            record.watched = self._keeper.hub.listens(member, record.client_id)
        self._keeper.tell_status(member)
        if runner is not None:
            runner.release()

    async def _submit(self, record: JobRecord, found: Validation | None) -> dict[str, Any]:
        """Send a job that has its place within the request, so that a refusal is the answer.

        Raises `_ElsewhereError` if the account cannot take it and another one may.
        """
        sender, places, member = self._sender, self._dispatcher.places, record.member
        elsewhere = places.has_other(record)
        record.outputs_to_execute = self._output_nodes(record, found.node_errors if found else {})
        try:
            submitted = await sender.send(record, patience=0.0 if elsewhere else None)
        except (UnansweredError, asyncio.CancelledError):
            sender.unsettled(record)
            self._keeper.tell_status(member)
            raise
        except SubmissionError as error:
            sender.rest(record, error)
            if elsewhere and error.fault is not None:
                places.give_back(record)
                raise _ElsewhereError from error
            await sender.drop(record)
            refusal = error.refusal
            refusal.node_errors = await self._files.reveal(member, refusal.node_errors)
            refusal.details = await self._files.reveal(member, refusal.details)
            raise refusal from error
        except LocalError as error:
            if elsewhere and error.status >= 500:
                sender.rest(record, SubmissionError(error, "unreachable"))
                places.give_back(record)
                raise _ElsewhereError from error
            await sender.drop(record)
            raise
        except BaseException:
            await sender.drop(record)
            raise
        node_errors = fill_node_errors(submitted.node_errors)
        if found is not None:
            node_errors = {**found.node_errors, **node_errors}
        told: dict[str, Any] = await self._files.reveal(member, node_errors)
        record.outputs_to_execute = self._output_nodes(record, told)
        sender.unreleased[record.key] = None
        await sender.taken(record, submitted.cloud_id)
        return told

    async def _enqueue(self, record: JobRecord, found: Validation | None) -> dict[str, Any]:
        """Accept a job that has to wait: on disk first, then in line."""
        node_errors = {} if found is None else found.node_errors
        record.accepted = True
        record.outputs_to_execute = self._output_nodes(record, node_errors)
        try:
            await self._keeper.save(record)
        except StoreError:
            await self._sender.drop(record)
            raise
        self._dispatcher.enqueue(record)
        return node_errors

    def _record(self, member: str, request: Request) -> JobRecord:
        record = JobRecord(
            prompt_id=request.prompt_id or str(uuid.uuid4()),
            member=member,
            number=self._next_number(member, request),
            graph=request.graph,
            extra_data=without_credentials(request.extra_data),
            targets=request.targets,
            client_id=request.client_id,
            create_time=now(),
            order=self._order,
            one_at_a_time=self._one_at_a_time(member, request.client_id),
            submitter=request.submitter,
        )
        self._order += 1
        record.extra_data["create_time"] = record.create_time
        return record

    def _next_number(self, member: str, request: Request) -> Number:
        if request.number is not None:
            return request.number
        number = self._numbers[member]
        self._numbers[member] += 1
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
