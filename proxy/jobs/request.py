"""What the jobs room is asked, what it answers, and how it is set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.jobs.fair_share import FairBy
from proxy.jobs.record import Number
from proxy.jobs.runner import Waits
from proxy.members.member import Parallelism


@dataclass(frozen=True, slots=True)
class Request:
    """A checked `POST /prompt`. `extra_data` is the client's; `number` wins over `front`.

    `submitter` tells the program that asks from others, `""` where it is not known.
    """

    graph: dict[str, Any]
    client_id: str | None = None
    prompt_id: str | None = None
    number: float | None = None
    front: bool = False
    extra_data: dict[str, Any] = field(default_factory=dict)
    targets: list[str] | None = None
    submitter: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The answer to `POST /prompt`."""

    prompt_id: str
    number: Number
    node_errors: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Backlog:
    """A member's jobs: so many wait with us, so many are on the cloud."""

    waiting: int
    on_cloud: int


@dataclass(frozen=True, slots=True)
class Policy:
    """Settings of the jobs room. Times are seconds; `history_size` counts entries a member.

    Partner nodes are lent the key of the account that runs them if `send_partner_key`. `fair_by`
    says what a turn costs, `client_parallelism` how many jobs of one client run at once. A job that
    no account can take ends after `unable_timeout`; 0 lets it wait for ever.
    """

    send_partner_key: bool = True
    history_size: int = 10_000
    submit_patience: float = 30.0
    adoption_patience: float = 15.0
    unable_timeout: float = 60.0
    status_interval: float = 5.0
    waits: Waits = field(default_factory=Waits)
    connected_wait: float = 10.0
    lost_wait: float = 1.5
    fair_by: FairBy = "jobs"
    client_parallelism: Parallelism = "auto"
