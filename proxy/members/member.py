"""Who is behind a client, and what they may use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

#: The one member of a proxy that has no members.
LOCAL = "local"

#: What a member may keep on the proxy's disk unless an admin says otherwise, in bytes.
STORED_BYTES = 1_000_000_000

Role = Literal["user", "admin"]

#: How many jobs of one client run at once: as is known of it, one, or as many as slots are free.
Parallelism = Literal["auto", "one", "many"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a member may use; `None` is no limit.

    `max_queued` counts jobs that wait, `max_running` those on the cloud at once; days are UTC's.
    `stored_bytes` bounds user data and settings, which stay on the proxy's disk until the member
    deletes them.
    `denied_classes` are node classes that no graph of the member may have, and with
    `deny_partner_nodes` none may have a node that is paid for by use.
    """

    max_queued: int | None = None
    max_running: int | None = None
    jobs_per_day: int | None = None
    upload_bytes_per_day: int | None = None
    stored_bytes: int | None = STORED_BYTES
    requests_per_second: float | None = None
    denied_classes: tuple[str, ...] = ()
    deny_partner_nodes: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A person or an integration. `weight` is the share of turns; `created` is in ms since 1970.

    `client_parallelism` stands in place of the setting of that name unless it is `None`.
    """

    name: str
    role: Role = "user"
    weight: float = 1.0
    limits: Limits = field(default_factory=Limits)
    disabled: bool = False
    created: int = 0
    client_parallelism: Parallelism | None = None
