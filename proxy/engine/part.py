"""What the parts of an engine share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.cloud.resilience import Backoff

if TYPE_CHECKING:
    from proxy.engine.engine import Engine


#: Between two tries to cancel a job on the cloud, or to write what must be written.
AGAIN = Backoff(first=0.5, longest=30.0)


class WithdrawnError(Exception):
    """The client has cancelled the job before it was sent."""


class EnginePart:
    """What the parts of an engine share."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._announcer = engine.announcer
        self._scheduler = engine.scheduler
        self._recorder = engine.recorder
        self._workers = engine.workers
        self._policy = engine.policy
        self._jobs = engine.jobs
        self._bus = engine.bus
