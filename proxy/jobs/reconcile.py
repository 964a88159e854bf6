"""Reads the account's live jobs from time to time, so that no lost event goes unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from proxy.accounts.slots import Slots
from proxy.cloud.errors import CloudError
from proxy.cloud.resilience import jittered
from proxy.jobs.happenings import Seen
from proxy.jobs.runner import Runner
from proxy.translate.snapshot import Snapshot

log = structlog.get_logger(__name__)


class Cloud(Protocol):
    """What reconciliation needs of the cloud."""

    async def jobs(
        self, statuses: Iterable[str] = (), *, limit: int | None = None
    ) -> list[Snapshot]:
        """The account's jobs with one of the statuses."""

    async def job(self, cloud_id: str) -> Snapshot | None:
        """A job's detail, which says why it waits."""


class Reconciler:
    """One list call for all live jobs; those that the list lacks are read one by one.

    `connected_wait` and `lost_wait` are the seconds between two readings while the event socket
    is open and while it is not; each is jittered. After a reading that failed they are twice as
    long each time, at most `longest_wait`, and never shorter than the cloud asked for. While
    `slots` are being learnt, one waiting job is asked why it waits.
    """

    def __init__(
        self,
        cloud: Cloud,
        runners: Callable[[], Mapping[str, Runner]],
        connected: Callable[[], bool],
        *,
        connected_wait: float = 10.0,
        lost_wait: float = 1.5,
        longest_wait: float = 60.0,
        slots: Slots | None = None,
    ) -> None:
        self._cloud = cloud
        self._runners = runners
        self._connected = connected
        self._connected_wait = connected_wait
        self._lost_wait = lost_wait
        self._longest_wait = longest_wait
        self._slots = slots
        self._live = asyncio.Event()
        self._now = asyncio.Event()
        self._failures = 0
        self._least_wait = 0.0

    def job_added(self) -> None:
        """There is a live job."""
        self._live.set()

    def read_soon(self) -> None:
        """The socket was lost or has come back: do not wait for the next reading."""
        self._now.set()

    async def run(self) -> None:
        """Go on until cancelled. While nothing is live, nothing is read."""
        while True:
            if not self._runners():
                self._live.clear()
                await self._live.wait()
                self._now.clear()
            await self._pause()
            self._now.clear()
            if not self._runners():
                continue
            try:
                await self.read()
            except Exception:
                self._failures += 1
                log.exception("live_jobs_read_crashed")

    async def read(self) -> None:
        """Read once. Jobs that are submitted meanwhile are left out."""
        live = dict(self._runners())
        try:
            snapshots = await self._cloud.jobs(("pending", "in_progress"))
        except CloudError as error:
            self._failures += 1
            self._least_wait = error.retry_after or 0.0
            log.warning("live_jobs_read_failed", error=str(error))
            return
        self._failures, self._least_wait = 0, 0.0
        await self._learn([one for one in snapshots if one.cloud_id in live])
        for snapshot in snapshots:
            runner = live.pop(snapshot.cloud_id, None)
            if runner is not None and not runner.reading:
                runner.post(Seen(snapshot, detail=False))
        for runner in live.values():
            runner.read_detail()

    async def _learn(self, ours: list[Snapshot]) -> None:
        """Find out whether jobs wait because the account runs no more at once."""
        slots = self._slots
        if slots is None or not slots.learning:
            return
        pending = [one for one in ours if one.status == "pending"]
        running = len(ours) - len(pending)
        if pending and not (slots.certain and running >= slots.count):
            with contextlib.suppress(CloudError):
                oldest = await self._cloud.job(pending[-1].cloud_id)
                limited = oldest is not None and oldest.queue_reason == "concurrency_limit"
                slots.held(len(pending) if limited else 0, running)

    async def _pause(self) -> None:
        """Wait for the next reading; `read_soon` cannot make it sooner than the cloud allows."""
        await asyncio.sleep(self._least_wait)
        usual = self._connected_wait if self._connected() else self._lost_wait
        wait = jittered(min(usual * 2 ** min(self._failures, 30), self._longest_wait))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait - self._least_wait):
                await self._now.wait()
