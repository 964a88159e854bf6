"""Publishes what becomes of jobs, while the engine's term lasts."""

from __future__ import annotations

import structlog

from proxy.bus import EventBus
from proxy.engine.term import Term
from proxy.jobs.messages import JobListener, JobNews

log = structlog.get_logger(__name__)

#: Seconds after which a client has its answer, also without a `JobReleased`: in one process, and
#: with other replicas (the one that answers may have died, or the bus not bring it).
_ALONE, _LOSSY = 5.0, 2.0


class NewsPublisher:
    """Publishes news of jobs to the `listener` while the `term` lasts."""

    def __init__(self, bus: EventBus, term: Term, listener: JobListener) -> None:
        self.bus = bus
        self.term = term
        self._listener = listener
        #: Whether what is published may be lost on its way to other processes.
        self.lossy = bus.lossy
        #: The epoch of the lease, in front of the numbers of a job's messages.
        self.epoch = term.fence.epoch

    def publish(self, news: JobNews) -> None:
        """Publish what becomes of a job, while this engine runs the jobs."""
        if not self.term.lasts:
            return
        try:
            self._listener.hear(news)
        except Exception:  # the job goes on all the same
            log.exception("listener_failed", news=type(news).__name__)

    @property
    def answer_timeout(self) -> float:
        """The seconds within which a client has the answer about its job, after that is sent."""
        return _LOSSY if self.lossy else _ALONE

    async def flush(self) -> None:
        """Wait, for a moment at most, until the bus has what was published."""
        if self.term.lasts:
            await self.bus.flush()
