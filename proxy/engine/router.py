"""From what an account tells to the jobs that it concerns.

An event socket carries the events of every job of the account, others' too: the router knows which
job one belongs to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from proxy.engine.follower import JobFollower
from proxy.engine.inbox import size_of
from proxy.engine.live_job import LiveJob
from proxy.engine.tracker import EventReceived, SnapshotReceived
from proxy.runtime import clock
from proxy.translate import events
from proxy.translate.frames import CloudFrame, CloudPicture
from proxy.translate.snapshots import Snapshot

#: Bytes of events of unknown jobs that are kept: some ten thousand usual ones.
EVENT_BYTES = 8 * 1024 * 1024

#: Bytes of pictures of unknown jobs that are kept while a submission is under way: those that a job
#: sends as its result within the seconds that an answer takes.
PICTURE_BYTES = 16 * 1024 * 1024

#: Seconds that anything is kept while a submission is under way: longer than one is waited for.
LONGEST = 120.0

#: Types of events that show that their job runs.
_OF_RUNNING_JOBS = frozenset({"executing", "progress", "progress_state"})


class _Early(Struct, frozen=True, order=True):
    """A message that came before anybody knew its job; they are in the order of their `number`."""

    number: int
    at: float
    cloud_id: str
    item: EventReceived | CloudFrame
    size: int


class _Waiting:
    """Early messages of one kind, no more than `limit` bytes of them: the oldest give way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[_Early] = deque()
        self.size = 0

    def append(self, early: _Early) -> None:
        self._entries.append(early)
        self.size += early.size
        while self.size > self._limit:
            self._drop()

    def expire(self, before: float) -> None:
        while self._entries and self._entries[0].at < before:
            self._drop()

    def pop(self, cloud_id: str) -> list[_Early]:
        taken = [early for early in self._entries if early.cloud_id == cloud_id]
        if taken:
            self._entries = deque(early for early in self._entries if early.cloud_id != cloud_id)
            self.size -= sum(early.size for early in taken)
        return taken

    def _drop(self) -> None:
        self.size -= self._entries.popleft().size


class EventRouter:
    """Gives messages of the cloud to what follows their `jobs`, those of the account by cloud id;
    `ended` are ids of ours that have ended, of which late events tell nothing. Those that are
    `placed` have a slot: some are on their way, and the cloud may run one whose id is not known.

    `clock` gives seconds. An event of an unknown job is kept for `keep` seconds, or while a
    submission is under way, and then pictures are too. What is kept is bounded in bytes.
    """

    def __init__(
        self,
        jobs: Mapping[str, LiveJob],
        clock: Callable[[], float] = clock.monotonic,
        *,
        ended: Container[str] = (),
        placed: Collection[LiveJob] = (),
        keep: float = 5.0,
        event_bytes: int = EVENT_BYTES,
        picture_bytes: int = PICTURE_BYTES,
    ) -> None:
        self._clock = clock
        self._keep = keep
        self._jobs, self._ended, self._placed = jobs, ended, placed
        self._events = _Waiting(event_bytes)
        self._pictures = _Waiting(picture_bytes)
        self._number = 0
        self._submissions = 0
        self._running: set[str] = set()
        self._latest: str | None = None

    @property
    def held(self) -> int:
        """Bytes of unknown jobs' messages that are kept, about."""
        return self._events.size + self._pictures.size

    @contextmanager
    def submission(self) -> Iterator[None]:
        """Keep messages of unknown jobs longer during the block: one may be the new job's."""
        self._submissions += 1
        try:
            yield
        finally:
            self._submissions -= 1

    def catch_up(self, job: LiveJob) -> None:
        """Give a job that is followed from now on the messages that came too early."""
        cloud_id = job.cloud_id
        for early in sorted(self._events.pop(cloud_id) + self._pictures.pop(cloud_id)):
            self._deliver(cloud_id, early.item)

    def forget(self, cloud_id: str) -> None:
        """Forget that a job runs; with the last one of ours, those of others, too: the cloud need
        not tell when they end."""
        self._running.discard(cloud_id)
        if self._jobs.keys() <= {cloud_id}:
            self._running.clear()

    def events_lost(self) -> None:
        """Forget what ran when events were lost: it may have ended unseen."""
        self._running.clear()
        self._latest = None
        for job in self._jobs.values():
            if job.follower is not None:
                job.follower.events_lost()

    def on_event(self, type_: str, data: Mapping[str, Any]) -> None:
        """Take a text message of the cloud."""
        cloud_id = events.concerns_a_job(type_, data)
        if cloud_id is None:
            return
        if events.is_terminal(type_, data) or (type_ == "executing" and data.get("node") is None):
            self._running.discard(cloud_id)
        elif type_ in _OF_RUNNING_JOBS and cloud_id not in self._ended:
            self._running.add(cloud_id)
            self._latest = cloud_id
        self._deliver(cloud_id, EventReceived(type_, data))

    def on_frame(self, frame: CloudFrame) -> None:
        """Take a picture or a text of the cloud.

        One without a job's id belongs to the only job that runs on the account, if it is known;
        when several run it is dropped rather than guessed. So it is while another member has a job
        on the account, or one on its way there: that one may run unheard, and pictures are nobody
        else's business.
        """
        cloud_id = frame.prompt_id
        if cloud_id is None and len(self._running) == 1 and self._latest in self._running:
            cloud_id = self._latest
            members = {job.member for job in (*self._jobs.values(), *self._placed)}
            if len(members) > 1:
                return
        if cloud_id is not None:
            self._deliver(cloud_id, frame)

    def on_snapshot(self, snapshot: Snapshot) -> None:
        """Take what is known of a job at one moment. One that nobody follows is left out."""
        if (follower := self._follower_of(snapshot.cloud_id)) is not None:
            follower.post(SnapshotReceived(snapshot, detail=False))

    def _deliver(self, cloud_id: str, item: EventReceived | CloudFrame) -> None:
        if (follower := self._follower_of(cloud_id)) is not None:
            follower.post(item)
        else:
            self._keep_early(cloud_id, item)

    def _follower_of(self, cloud_id: str) -> JobFollower | None:
        job = self._jobs.get(cloud_id)
        return None if job is None else job.follower

    def _keep_early(self, cloud_id: str, item: EventReceived | CloudFrame) -> None:
        """Keep a message of an unknown job for a while, a picture only during a submission."""
        now = self._clock()
        before = now - (LONGEST if self._submissions else self._keep)
        self._events.expire(before)
        self._pictures.expire(before)
        picture = isinstance(item, CloudPicture)
        if picture and not self._submissions:
            return
        self._number += 1
        early = _Early(self._number, now, cloud_id, item, size_of(item))
        (self._pictures if picture else self._events).append(early)
