"""The answers to clients whose jobs were taken in or refused, before which no message may flow."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from proxy.bus import EventBus
from proxy.engine.announcer import Announcer
from proxy.engine.follower import Runs
from proxy.engine.table import JobTable
from proxy.jobs.messages import JobAnswered
from proxy.storage.jobs import JobKey
from proxy.translate.errors import LocalError

#: Seconds after which a job's messages flow without a `JobReleased`: in one process, with other
#: replicas (the one that answers the client may have died), and while the bus is not connected.
_RELEASE, _RELEASE_SHARED, _RELEASE_UNCONNECTED = 5.0, 2.0, 1.0


class Answers:
    """Answers the api, once about each job whose client waits, and lets the messages of a job flow
    once its client has the answer.

    `shared` says that several replicas answer clients.
    """

    def __init__(
        self, bus: EventBus, announcer: Announcer, table: JobTable, runs: Runs, *, shared: bool
    ) -> None:
        self._bus = bus
        self._announcer = announcer
        self._table = table
        self._runs = runs
        self._shared = shared
        #: The jobs whose clients wait.
        self._due: set[JobKey] = set()

    def expect(self, key: JobKey) -> None:
        """Note that a client waits."""
        self._due.add(key)

    def accept(self, key: JobKey, node_errors: Mapping[str, Any] | None = None) -> bool:
        """Tell a client that waits that its job was taken in, without the nodes in `node_errors`.
        Return whether it waited."""
        if key not in self._due:
            return False
        self._due.remove(key)
        self._announcer.publish("answers", JobAnswered(key, node_errors))
        wait = _RELEASE_SHARED if self._shared else _RELEASE
        if not self._bus.connected:
            wait = _RELEASE_UNCONNECTED
        asyncio.get_running_loop().call_later(wait, self.release, key)
        return True

    def refuse(self, key: JobKey, refusal: LocalError) -> None:
        """Tell a client that waits that its job was refused."""
        if key in self._due:
            self._due.remove(key)
            self._announcer.publish("answers", JobAnswered(key, error=refusal))

    def release(self, key: JobKey, *, watched: bool = True) -> None:
        """Let the job's messages flow: its client has the answer, and a socket if `watched`."""
        job = self._table.get(key)
        if job is None or job.answered:
            return
        self._table.note(job, answered=True)
        if job.watched != watched:
            self._table.advance(job, watched=watched)
        if job in self._runs:
            self._runs[job].release()
