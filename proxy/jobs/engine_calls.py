"""What is asked of the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from proxy.jobs.messages import OverviewAnswered, RunAnswered
from proxy.jobs.models import AccountView, Job
from proxy.storage.database import StorageError
from proxy.storage.job_tables import JobKey
from proxy.translate.errors import LocalError


class RunningEngine(Protocol):
    """The engine that runs the jobs."""

    def receive(self, job: Job) -> None:
        """Take in a checked job, which is in the storage. The listener hears a `JobAnswered`."""

    def release(self, key: JobKey, *, watched: bool) -> None:
        """Let a job's messages flow: its client has the answer, and a socket if `watched`."""

    def cancel(
        self, keys: Iterable[JobKey], *, interrupt: bool = False, cleared: bool = False
    ) -> asyncio.Task[bool | LocalError | StorageError]:
        """End jobs, also if nobody waits for that any more; the result is whether any was by this,
        or why not: a `StorageError` if what is to be promised cannot be written.

        With `interrupt` they end as interrupted runs, also those that have not begun; else what has
        not begun leaves no trace. With `cleared` the sockets hear once how many jobs are left.
        """

    def overview(self, member: str | None) -> OverviewAnswered:
        """Return all live jobs, or those of one member, and the accounts."""

    def run(self, key: JobKey, *, picture: bool) -> RunAnswered:
        """Return how far a job is, with its last preview if a `picture` is wanted."""

    def running_node(self, member: str, client_id: str) -> str | None:
        """Return the node of a client that runs, if one does."""

    def account_views(self) -> tuple[AccountView, ...]:
        """Return the accounts as they are now."""
