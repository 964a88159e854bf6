"""Who wants to know what becomes of jobs: for counting, never for deciding."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from proxy.jobs.record import JobRecord, Outcome

log = structlog.get_logger(__name__)


class Observer(Protocol):
    """Is told at once; must neither wait nor fail, and keeps its hands off the record."""

    def accepted(self, record: JobRecord) -> None:
        """The client is told that its job is in the queue."""

    def dispatched(self, record: JobRecord, waited: float) -> None:
        """The cloud has taken the job, `waited` seconds after the client had sent it."""

    def ended(
        self, record: JobRecord, outcome: Outcome, running_seconds: float, output_count: int
    ) -> None:
        """The job has ended and is in the history."""

    def discarded(self, record: JobRecord) -> None:
        """The job was accepted and has left the queue without a trace."""


class Observers:
    """Tells several observers; one that fails does not keep it from the others."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._all = list(observers)

    def accepted(self, record: JobRecord) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.accepted(record))

    def dispatched(self, record: JobRecord, waited: float) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.dispatched(record, waited))

    def ended(
        self, record: JobRecord, outcome: Outcome, running_seconds: float, output_count: int
    ) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.ended(record, outcome, running_seconds, output_count))

    def discarded(self, record: JobRecord) -> None:
        """See `Observer`."""
        self._tell(lambda one: one.discarded(record))

    def _tell(self, news: Callable[[Observer], None]) -> None:
        for one in self._all:
            try:
                news(one)
            except Exception:
                log.exception("observer_failed", observer=type(one).__name__)
