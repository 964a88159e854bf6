"""Settings of the engine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from msgspec import Struct, field

from proxy.cloud.event_socket import Timeouts
from proxy.jobs.models import FairBy
from proxy.members.member import Parallelism
from proxy.runtime.backoff import Backoff
from proxy.translate.snapshots import Snapshot
from proxy.webhooks.delivery import RetrySchedule


class DetailTimeouts(Struct, frozen=True):
    """How long to wait between readings of a job's detail, and when to stop (seconds).

    `settle` bounds the wait for the outputs of a completed job, `settle_stopped` the wait for the
    end time of a failed or cancelled one, `lost` that for a job which the cloud does not know.
    """

    first: float = 0.05
    longest: float = 2.0
    settle: float = 30.0
    settle_stopped: float = 6.0
    lost: float = 60.0

    def settle_for(self, snapshot: Snapshot) -> float:
        """Return how many seconds an ended job may lack what its detail should have."""
        return self.settle if snapshot.status == "completed" else self.settle_stopped

    def growing(self) -> Iterable[float]:
        """Yield 0, then `first` and ever longer delays up to `longest`, in seconds."""
        yield 0.0
        backoff = Backoff(self.first, self.longest, factor=1.7)
        yield from map(backoff.whole, itertools.count(1))


class Policy(Struct, frozen=True):
    """Settings of the jobs room. Times are seconds; `history_size` counts entries a member,
    as many as ComfyUI keeps.

    Partner nodes are lent the key of the account that runs them if `send_partner_key`. `fair_by`
    says what a turn costs, `client_parallelism` how many jobs of one client run at once. A job that
    no account can take ends after `unable_timeout`, one on an
    account that can no longer be read after `lost_timeout`; 0 lets it wait for ever. `webhooks` are
    attempted by that schedule. The `timeouts` are those of the cloud.
    """

    send_partner_key: bool = True
    history_size: int = 10_000
    submit_timeout: float = 30.0
    adoption_timeout: float = 15.0
    unable_timeout: float = 60.0
    lost_timeout: float = 3600.0
    status_interval: float = 5.0
    detail: DetailTimeouts = field(default_factory=DetailTimeouts)
    connected_wait: float = 10.0
    lost_wait: float = 1.5
    fair_by: FairBy = "jobs"
    client_parallelism: Parallelism = "auto"
    webhooks: RetrySchedule = RetrySchedule()
    timeouts: Timeouts = field(default_factory=Timeouts)
