"""From the account's one event socket to the jobs that its messages concern.

The socket carries the events of every job of the account, others' too. An event may be faster
than the answer to the submission that made its job, so those of unknown jobs wait a little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from proxy.jobs.happenings import CloudEvent
from proxy.translate import events, frames
from proxy.translate.frames import CloudFrame, CloudPicture

Inbox: TypeAlias = Callable[[CloudEvent | CloudFrame], None]


class Router:
    """Knows which cloud id belongs to which job.

    `clock` gives seconds. An event of an unknown job is kept while a submission is under way, or
    for `keep` seconds, and never more than `most` of them.
    """

    def __init__(self, clock: Callable[[], float], *, keep: float = 5.0, most: int = 4096) -> None:
        self._clock = clock
        self._keep = keep
        self._inboxes: dict[str, Inbox] = {}
        self._waiting: deque[tuple[float, str, CloudEvent | CloudFrame]] = deque(maxlen=most)
        self._submissions = 0
        self._running: set[str] = set()
        self._latest: str | None = None

    @contextmanager
    def submission(self) -> Iterator[None]:
        """While it lasts, no event of an unknown job is too old to wait."""
        self._submissions += 1
        try:
            yield
        finally:
            self._submissions -= 1

    def add(self, cloud_id: str, inbox: Inbox) -> None:
        """Send the events of a job to `inbox`, beginning with those that came too early."""
        self._inboxes[cloud_id] = inbox
        early = [entry for entry in self._waiting if entry[1] == cloud_id]
        for entry in early:
            self._waiting.remove(entry)
            inbox(entry[2])

    def remove(self, cloud_id: str) -> None:
        """Forget a job."""
        self._inboxes.pop(cloud_id, None)
        self._running.discard(cloud_id)

    def socket_lost(self) -> None:
        """What ran when the socket was lost may have ended unseen."""
        self._running.clear()
        self._latest = None

    def on_event(self, type_: str, data: Mapping[str, Any]) -> None:
        """Take a text message of the cloud."""
        cloud_id = events.concerns_a_job(type_, data)
        if cloud_id is None:
            return
        over = type_ == "executing" and data.get("node") is None
        if over or events.is_terminal(type_, data):
            self._running.discard(cloud_id)
        elif type_ in ("executing", "progress", "progress_state"):
            self._running.add(cloud_id)
            self._latest = cloud_id
        self._deliver(cloud_id, CloudEvent(type_, data))

    def on_frame(self, data: bytes) -> None:
        """Take a binary message of the cloud.

        One without a job's id belongs to the only job that runs on the account, if it is known;
        when several run it is dropped rather than guessed.
        """
        frame = frames.parse(data)
        if frame is None:
            return
        cloud_id = frame.prompt_id
        if cloud_id is None and len(self._running) == 1 and self._latest in self._running:
            cloud_id = self._latest
        if cloud_id is not None:
            self._deliver(cloud_id, frame)

    def _deliver(self, cloud_id: str, item: CloudEvent | CloudFrame) -> None:
        inbox = self._inboxes.get(cloud_id)
        if inbox is not None:
            inbox(item)
            return
        now = self._clock()
        while self._waiting and not self._submissions and self._waiting[0][0] < now - self._keep:
            self._waiting.popleft()
        if self._submissions or not isinstance(item, CloudPicture):
            self._waiting.append((now, cloud_id, item))
