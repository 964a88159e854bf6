"""Who is behind a client, and what they may use. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from proxy.translate.errors import LocalError

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

    `client_parallelism` stands instead of the setting of that name unless it is `None`.
    """

    name: str
    role: Role = "user"
    weight: float = 1.0
    limits: Limits = field(default_factory=Limits)
    disabled: bool = False
    created: int = 0
    client_parallelism: Parallelism | None = None


#: The catalog's word on a node class, or `None` while it has none.
KnownClass = Callable[[str], Mapping[str, Any] | None]


def check_classes(member: Member, graph: Mapping[str, Any], known_class: KnownClass) -> None:
    """Refuse a graph with a node that the member may not use.

    Raises `LocalError`: 403 with the nodes in `node_errors`; 503 for a member who may not use
    partner nodes, while nobody can say of a class whether it is one.
    """
    limits = member.limits
    if not limits.denied_classes and not limits.deny_partner_nodes:
        return
    denied = {
        node_id: (class_type, limit)
        for node_id, class_type in _classes(graph)
        if (limit := _denied_by(class_type, limits, known_class)) is not None
    }
    if not denied:
        return
    node_id, (class_type, limit) = next(iter(denied.items()))
    raise LocalError(
        "node_not_allowed",
        f"The member {member.name} cannot use the node {class_type} ({limit}); remove it from the "
        "workflow, or ask an admin of this server.",
        kind="forbidden",
        details=f"Node ID '#{node_id}'",
        extra_info={"node_id": node_id, "class_type": class_type, "limit": limit},
        node_errors={one: _node_error(*about) for one, about in denied.items()},
    )


def _classes(graph: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (node_id, node["class_type"])
        for node_id, node in graph.items()
        if isinstance(node, Mapping) and isinstance(node.get("class_type"), str)
    ]


def _denied_by(class_type: str, limits: Limits, known_class: KnownClass) -> str | None:
    """The limit that denies a class."""
    for pattern in limits.denied_classes:
        if class_type == pattern or fnmatchcase(class_type, pattern):
            return f"denied_classes: {pattern}"
    if not limits.deny_partner_nodes:
        return None
    info = known_class(class_type)
    if info is None:
        raise LocalError(
            "catalog_unavailable",
            f"The proxy does not know yet whether {class_type} is a partner node, which you cannot "
            "use; try again later.",
            kind="unavailable",
            retry_after=5,
        )
    return "deny_partner_nodes" if info.get("api_node") else None


def _node_error(class_type: str, limit: str) -> dict[str, Any]:
    reason = {
        "type": "node_not_allowed",
        "message": "You cannot use this node",
        "details": limit,
        "extra_info": {"limit": limit},
    }
    return {"errors": [reason], "dependent_outputs": [], "class_type": class_type}
