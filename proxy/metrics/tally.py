"""What is counted while requests are answered and jobs run: plain counts in memory.

One event loop counts and reads, so that nothing is locked; a count costs a dictionary's look-up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from typing import Protocol

from proxy.counting import SLOW, Histogram

#: The values of a metric's labels, in the order of the table.
Labels = tuple[str, ...]


class Job(Protocol):
    """What is counted by, of a job."""

    member: str
    account: str


class Tally:
    """Counts since the start; also an observer of the jobs."""

    def __init__(self) -> None:
        self.requests: Counter[Labels] = Counter()
        self.request_seconds: defaultdict[Labels, Histogram] = defaultdict(Histogram)
        self.websockets: Counter[str] = Counter()
        self.previews_dropped: Counter[str] = Counter()
        self.uploaded: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.limit_refusals: Counter[Labels] = Counter()
        self.accepted_jobs: Counter[str] = Counter()
        self.ended_jobs: Counter[Labels] = Counter()
        slow = partial(Histogram, SLOW)
        self.wait_seconds: defaultdict[Labels, Histogram] = defaultdict(slow)
        self.running_seconds: defaultdict[Labels, Histogram] = defaultdict(slow)

    def answered(self, member: str, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is a template."""
        self.requests[member, method, route, _CLASSES[status // 100]] += 1
        if status != 101:
            self.request_seconds[method, route].observe(seconds)

    def accepted(self, job: Job) -> None:
        """A job was taken in."""
        self.accepted_jobs[job.member] += 1

    def dispatched(self, job: Job, waited: float) -> None:
        """A job was submitted to the cloud after `waited` seconds."""
        self.wait_seconds[job.member, job.account].observe(waited)

    def ended(self, job: Job, outcome: str, running_seconds: float, output_count: int) -> None:
        """A job has ended."""
        self.ended_jobs[job.member, job.account, outcome] += 1
        self.running_seconds[job.member, job.account].observe(running_seconds)

    def discarded(self, job: Job) -> None:
        """A waiting job was taken out."""
        self.ended_jobs[job.member, job.account, "withdrawn"] += 1


_CLASSES = ("other", "1xx", "2xx", "3xx", "4xx", "5xx", *("other",) * 4)
