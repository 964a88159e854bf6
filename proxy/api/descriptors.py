"""File descriptors: each connection takes one, and the rooms below need some too."""

from __future__ import annotations

import sys

#: Descriptors kept for files, the database and the connections to the cloud.
RESERVE = 256


def room_for(connections: int) -> int:
    """Raise this process's limit as far as it may, and say how many connections fit into it.

    A process out of descriptors could neither write its records nor reach the cloud; so it takes
    fewer clients instead.
    """
    if sys.platform == "win32":
        return connections
    import resource

    wanted = connections + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # macOS allows fewer than it says
            pass
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, soft - RESERVE))
