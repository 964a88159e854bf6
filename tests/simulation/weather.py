"""What goes wrong in a run: rates at which calls fail, and outages of one process or of all."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulation.loop import Process

#: Chances of what may happen to each call, event or unit, at most; each run draws its own.
RATES: Mapping[str, float] = {
    # units of work
    "unit_failed": 0.01,
    "unit_refused": 0.005,
    "answer_lost": 0.03,
    "never_settled": 0.5,
    "slow_unit": 0.03,
    # calls to the cloud
    "request_lost": 0.03,
    "response_lost": 0.05,
    "request_late": 0.03,
    "gateway_error": 0.03,
    "throttled": 0.01,
    "no_credits": 0.01,
    "garbage": 0.01,
    "slow_call": 0.05,
    # events and answers of the cloud
    "event_lost": 0.05,
    "event_repeated": 0.05,
    "event_reordered": 0.05,
    "socket_closed": 0.005,
    "stale_list": 0.1,
    "unlisted": 0.2,
    "job_failed": 0.1,
    "job_forgotten": 0.01,
    "late_outputs": 0.1,
    # clients
    "answer_to_client_lost": 0.03,
}

#: More of them, which are drawn beside those.
MORE_RATES: Mapping[str, float] = {
    "way_lost": 0.2,  # a standby does not reach the leader
    "way_broken": 0.1,  # the answer of the leader does not come
    "way_cut": 0.05,  # the leader gets nothing of a request, or a websocket ends
    "way_hangs": 0.02,  # a connection is half open: the answer never comes
    "balancer_wrong": 0.3,  # a check takes any process for the leader
    "list_lost": 0.95,  # a reading of the jobs of an account
    "unlisted_end": 1.0,  # an end that no document lists
    "submission_late": 0.3,  # a submission whose connection has broken
}

#: More of them, which are drawn beside all of those.
NEWER_RATES: Mapping[str, float] = {
    "gateway_failed": 0.05,  # a 500, 502 or 504, whether the cloud has taken the request or not
    "submission_failed": 0.3,  # the same in answer to a submission
    "id_repeated": 0.1,  # the answer to a submission has the id of another job
    "filter_ignored": 0.5,  # a list has what was not asked for
    "node_unheard": 0.7,  # that a node runs, of which there are previews
    "preview_unnamed": 0.7,  # a preview without the id of its job
    "unit_repeated": 0.1,  # a unit of work runs twice, as after a deadlock
    "key_refused": 0.01,
}

#: What lets events get lost.
LOSSES = frozenset({"event_lost", "event_reordered", "socket_closed", "node_unheard", "slow_call"})

#: Those of a deployment alone, beside those of the cloud.
DEPLOYMENT_RATES: Mapping[str, float] = {
    "not_ready": 0.05,
    "queue_full": 0.05,
    "submission_lost": 0.3,  # the answer to one that was taken
    "key_held": 0.05,  # an error of the server that keeps the `Idempotency-Key`, without a job
    "rate_limited": 0.05,
    "too_many_streams": 0.2,
    "stream_closed": 0.05,
    "stream_hangs": 0.05,
    "stream_late": 0.1,
    "progress_back": 0.1,
    "job_expired": 0.05,
    "cancelled_expires": 1.0,
    "expired_early": 1.0,  # a job is `expired` for a moment before it has succeeded
    "worker_lost": 0.05,
    "reading_lost": 0.5,
    "signature_expired": 0.2,
    "input_expires": 0.5,
    "input_gone": 0.3,
    "content_known": 0.5,  # the platform has the content of an input
}

#: Seconds after which a late request arrives, at most; it has long been given up.
LATE = 8.0


class Weather:
    """The rates and outages of a run; once it is `healed`, nothing goes wrong any more."""

    def __init__(
        self, rng: random.Random, time: Callable[[], float], rates: Mapping[str, float]
    ) -> None:
        self._rng = rng
        self._time = time
        self._rates = rates
        self._until: defaultdict[tuple[str, str], float] = defaultdict(lambda: -math.inf)
        self.healed = False
        #: How often the lead was handed over since the cloud is away for all.
        self.handovers = 0
        #: Set while there may be an outage.
        self.outage = asyncio.Event()

    def chance(self, name: str) -> bool:
        """Return whether it happens this time."""
        rate = self._rates.get(name, 0.0)
        return rate > 0 and not self.healed and self._rng.random() < rate

    def draw(self, least: float, most: float) -> float:
        """Return a number between two."""
        return self._rng.uniform(least, most)

    def heal(self) -> None:
        """End all outages."""
        self.healed = True
        self.outage.clear()
        self._until.clear()

    def begin(self, kind: str, seconds: float, name: str = "") -> None:
        """Begin an outage of a process, or of all."""
        self.outage.set()
        if kind == "cloud" and not name and not self.lasts("cloud"):
            self.handovers = 0
        self._until[kind, name] = max(self._until[kind, name], self._time() + seconds)

    def _is(self, kind: str, process: Process | None) -> bool:
        if not self._until:
            return False
        now = self._time()
        named = "" if process is None else process.name
        return self._until[kind, ""] > now or self._until[kind, named] > now

    def take(self, table: str) -> None:
        """Raise an error while a table is refused."""
        if self._until and self._until["table_refused", table] > self._time():
            raise OSError(f"{table} is refused")

    # --- the database, the other processes and the cloud ------------------------------------

    def database_away(self, process: Process | None) -> bool:
        """Whether the database does not answer a process."""
        return self._is("database", process)

    @property
    def database_ill(self) -> bool:
        """Whether the database is away or slow for anybody."""
        return self.outage_of("database", "slow_database", "disk_full", "table_refused")

    def outage_of(self, *kinds: str) -> bool:
        """Return whether an outage of one of these kinds lasts, for all or for anybody."""
        now = self._time()
        return any(until > now for (kind, _), until in self._until.items() if kind in kinds)

    def peer_away(self, process: Process | None, other: Process | None) -> bool:
        """Whether a process does not reach another one."""
        apart = self._is("peer", process) or self._is("peer", other)
        return apart or self._is("peer_out", process) or self._is("peer_in", other)

    def front_away(self, process: Process | None) -> bool:
        """Whether the balancer does not reach a process."""
        return self._is("front", process)

    def cloud_away(self, process: Process | None, host: str) -> bool:
        """Whether the cloud of a host does not answer a process."""
        return self._is("cloud", process) or self._until["cloud", host] > self._time()

    def cloud_half_lost(self, process: Process | None) -> bool:
        """Whether each second request of a process is lost now, or its answer."""
        return self._is("half_lost", process) and self._rng.random() < 0.5

    def lasts(self, kind: str) -> bool:
        """Whether an outage of all lasts."""
        return self._is(kind, None)

    def no_credits(self) -> bool:
        """Whether the cloud takes no job for want of credits."""
        return self.lasts("no_credits")

    def way_to_database(self, process: Process | None) -> float:
        """Return the seconds that one way takes."""
        if self._is("slow_database", process):
            return self._rng.uniform(0.05, 0.95)  # a unit that takes longer fails
        slow = self.chance("slow_unit")
        return self._rng.uniform(0.01, 0.5) if slow else self._rng.uniform(0.0002, 0.004)

    def way_to_cloud(self) -> float:
        """Return the seconds that one way takes."""
        if self.chance("slow_call"):
            return self._rng.uniform(0.2, 4.0)
        return self._rng.uniform(0.005, 0.08)
