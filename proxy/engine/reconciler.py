"""Reads the jobs of an account from time to time, so that no lost event goes unnoticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from proxy.cloud.errors import CloudError, CloudRefused, may_pass
from proxy.cloud.upstream import EventFeed
from proxy.engine.accounts import Account, Reason
from proxy.engine.live_job import LiveJob
from proxy.engine.policy import Policy
from proxy.engine.scheduler import Scheduler
from proxy.engine.table import JobTable
from proxy.engine.tracker import GiveUp, SnapshotReceived
from proxy.logging import FailureLines
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff
from proxy.runtime.waits import until_set
from proxy.translate.errors import from_cloud
from proxy.translate.snapshots import Snapshot

log = structlog.get_logger(__name__)

#: Jobs that are read by themselves while the list cannot be read, in one reading.
_MAX_SINGLE = 8
#: Failures that count at most while that works: the next reading comes soon.
_MAX_FAILURES = 3

_LOST: Mapping[Reason, str] = {
    "dead_key": "{} no longer accepts this proxy's API key of the account of this job; ask an "
    "admin of the proxy to find its outputs there with that account.",
    "unreachable": "{} was unreachable for too long; find the outputs of this job there with its "
    "account.",
}


@dataclass(eq=False, repr=False)
class Reconciler:
    """Reads all live jobs by one list call, and one by one those that the list lacks.

    The `policy` has the seconds between two readings while events come and while they do not; each
    is jittered. After a reading that failed they are twice as long each time, at most
    `longest_wait`, and never shorter than the cloud asked for. While the list fails, some jobs in
    turn are read by themselves. While the account's slots are being learned, one waiting job is
    asked why it waits.

    While the account cannot be read its jobs show the reason. If that lasts for `lost_timeout`
    seconds they end as lost; 0 waits for ever. If the account refuses its key, the `scheduler`
    suspends it, so that jobs that wait for one of its slots show the reason, too.
    """

    account: Account
    scheduler: Scheduler
    table: JobTable
    feed: EventFeed
    policy: Policy
    longest_wait: float = 60.0
    _now: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _failures: int = field(init=False, default=0)
    _least_wait: float = field(init=False, default=0.0)
    _unread_since: float | None = field(init=False, default=None)
    _key_refused: bool = field(init=False, default=False)
    _lines: FailureLines = field(init=False, default_factory=FailureLines)

    def __post_init__(self) -> None:
        self._followed = self.table.on_account(self.account.name)

    def read_soon(self) -> None:
        """Do not wait for the next reading: the socket was lost or has come back."""
        self._now.set()

    async def run(self) -> None:
        """Continue until cancelled. While nothing is live, nothing is read."""
        while True:
            await self._pause()
            self._now.clear()
            if not self._followed:
                self._unread_since = None
                continue
            try:
                await self.read()
            except Exception:
                self._failures += 1
                log.exception("live_jobs_read_crashed")

    async def read(self) -> None:
        """Read once. Jobs that are submitted meanwhile are left out."""
        live = dict(self._followed)
        try:
            snapshots = await self.account.cloud.live(live.keys())
        except CloudError as error:
            self._failures += 1
            self._least_wait = error.retry_after or 0.0
            if (more := self._lines.due("live_jobs_read_failed")) is not None:
                log.warning("live_jobs_read_failed", error=str(error), **more)
            if may_pass(error) and await self._read_single_jobs(live):
                self._failures = min(self._failures, _MAX_FAILURES)
                self._show_read(live)
            else:
                self._show_unread(error, live)
            return
        self._failures, self._least_wait = 0, 0.0
        self._lines.ended("live_jobs_read_failed")
        self._lines.ended("live_job_read_failed")
        self._show_read(live)
        await self._learn([snapshot for snapshot in snapshots if snapshot.cloud_id in live])
        for snapshot in snapshots:
            if snapshot.cloud_id not in live:
                continue
            follower = live.pop(snapshot.cloud_id).follower
            if follower is not None and not follower.reading:
                follower.post(SnapshotReceived(snapshot, detail=False))
        for job in live.values():
            if job.follower is not None:
                job.follower.read_detail()

    async def _read_single_jobs(self, live: Mapping[str, LiveJob]) -> bool:
        """Read jobs by themselves, until one cannot be read: those first that have not been read
        for longest. Return whether any could be."""
        followers = {id_: job.follower for id_, job in live.items() if job.follower is not None}
        in_turn = sorted(followers.items(), key=lambda followed: followed[1].read_alone_at)
        is_any_read = False
        for cloud_id, follower in in_turn[:_MAX_SINGLE]:
            try:
                snapshot = await self.account.cloud.job(cloud_id, max_attempts=1)
            except CloudError as error:
                if (more := self._lines.due("live_job_read_failed")) is not None:
                    log.info("live_job_read_failed", cloud_job=cloud_id, error=str(error), **more)
                break
            is_any_read = True
            follower.read_alone_at = clock.monotonic()
            if snapshot is None:
                follower.read_detail()
            elif not follower.reading:
                follower.post(SnapshotReceived(snapshot))
        return is_any_read

    def _show_read(self, live: Mapping[str, LiveJob]) -> None:
        """Note that the account can be read, and that its jobs can be followed again."""
        if self._key_refused:
            self._key_refused = False
            self.scheduler.key_accepted(self.account.name)
        if self._unread_since is not None:
            self._unread_since = None
            for job in live.values():
                self.table.show(job, reason=None, message=None)

    def _show_unread(self, error: CloudError, live: Mapping[str, LiveJob]) -> None:
        """Show why the account's jobs cannot be followed; end them when that has lasted."""
        if self._unread_since is None:
            self._unread_since = clock.monotonic()
        lasted = clock.monotonic() - self._unread_since
        reason: Reason = "unreachable"
        if isinstance(error, CloudRefused) and error.status in (401, 403):
            reason, self._key_refused = "dead_key", True
            refusal = from_cloud(error.status, error.body, error.retry_after)
            self.scheduler.set_aside(self.account.name, "dead_key", refusal)
        title = self.account.cloud.title
        lost = self.policy.lost_timeout and lasted >= self.policy.lost_timeout
        for job in live.values():
            self.table.show(job, reason=reason, message=None)
            if lost and job.follower is not None:
                log.error("job_lost", job=job.prompt_id, member=job.member, reason=reason)
                job.follower.post(GiveUp(_LOST[reason].format(title), lost=True))

    async def _learn(self, ours: list[Snapshot]) -> None:
        """Find out whether jobs wait because the account runs no more at once."""
        slots = self.account.slots
        if slots.fixed:
            return
        pending = [snapshot for snapshot in ours if snapshot.status == "pending"]
        running = len(ours) - len(pending)
        if pending and not (slots.certain and running >= slots.count):
            with contextlib.suppress(CloudError):
                oldest = await self.account.cloud.job(pending[-1].cloud_id)
                limited = oldest is not None and oldest.queue_reason == "concurrency_limit"
                slots.held(len(pending) if limited else 0, running)

    async def _pause(self) -> None:
        """Wait for the next reading; `read_soon` cannot make it sooner than the cloud allows."""
        await asyncio.sleep(self._least_wait)
        policy, connected = self.policy, self.feed.connected
        usual = policy.connected_wait if connected else policy.lost_wait
        usual = min(usual, self.account.cloud.capabilities.max_read_interval)
        wait = Backoff(usual, self.longest_wait).after(self._failures + 1)
        await until_set(self._now, wait - self._least_wait)
