"""Workflows that a member's clients publish to each other.

They are in the database, so that no memory holds them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import structlog

from proxy.jobs.subscribers import ListeningClients
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.storage.database import StorageError
from proxy.storage.workflows import MAX_WORKFLOWS, PublishedWorkflow, WorkflowRepository
from proxy.translate import codec
from proxy.translate.errors import PlainError
from proxy.translate.events import Event

log = structlog.get_logger(__name__)

#: Bytes of a workflow, as the JSON of its message.
MAX_WORKFLOW_BYTES = 4 * 1024 * 1024
#: Characters of a client's id.
MAX_ID_LENGTH = 1000

#: Sends an event to the socket of a member's client, if it has one.
Tell = Callable[[str, str, Event], None]


class WorkflowExchange:
    """The published workflows and their subscribers, whom `tell` reaches."""

    def __init__(self, repository: WorkflowRepository, tell: Tell, supervisor: Supervisor) -> None:
        self._repository = repository
        self._tell = tell
        self._supervisor = supervisor
        self._subscribers = ListeningClients(MAX_WORKFLOWS)

    async def publish(self, member: str, publisher: str, name: Any, workflow: Any) -> None:
        """Store a workflow and send it to the member's clients that have subscribed.

        Raises `PlainError` (413) for one that is too large, `StorageError`.
        """
        _check_id(publisher)
        data = {"publisher": {"name": name, "id": publisher}, "workflow": workflow}
        message = codec.dumps({"type": "etn_workflow_published", "data": data})
        if len(message) > MAX_WORKFLOW_BYTES:
            raise PlainError(
                f"The workflow has more than {MAX_WORKFLOW_BYTES:,} bytes, which is the maximum.",
                kind="too_large",
            )
        published_at = clock.time_ns()
        await self._repository.put(
            PublishedWorkflow(member, publisher, published_at, len(message), message)
        )
        if self._subscribers.any_of(member):
            work = self._deliver(member, publisher, published_at)
            self._supervisor.spawn(work, "deliver a workflow")

    async def subscribe(self, member: str, client_id: str) -> bool:
        """Let a client receive workflows, beginning with those that are there.

        Returns false if it has subscribed already. Raises `PlainError`, `StorageError`.
        """
        _check_id(client_id)
        if client_id in self._subscribers.of(member):
            return False
        self._subscribers.change(member, client_id, wants=True)
        try:
            for publisher in await self._repository.publishers(member):
                workflow = await self._repository.get(member, publisher)
                if workflow is not None:
                    self._tell(member, client_id, _event(workflow))
        except StorageError:
            self.unsubscribe(member, client_id)
            raise
        return True

    def unsubscribe(self, member: str, client_id: str) -> bool:
        """Send a client no more workflows; return false if it has not subscribed."""
        if client_id not in self._subscribers.of(member):
            return False
        self._subscribers.change(member, client_id, wants=False)
        return True

    async def _deliver(self, member: str, publisher: str, published_at: int) -> None:
        """Send a workflow to the subscribers, unless its publisher has replaced it meanwhile."""
        try:
            workflow = await self._repository.get(member, publisher)
        except StorageError as error:
            log.error("workflow_not_delivered", error=str(error))
            return
        if workflow is None or workflow.published_at != published_at:
            return
        event = _event(workflow)
        for client_id in self._subscribers.of(member):
            self._tell(member, client_id, event)


def _check_id(client_id: str) -> None:
    if len(client_id) > MAX_ID_LENGTH:
        raise PlainError(f"The client_id has more than {MAX_ID_LENGTH} characters.")


def _event(workflow: PublishedWorkflow) -> Event:
    return Event("etn_workflow_published", None, workflow.message)
