"""Who is behind the clients: members, their tokens, their limits.

Without tokens there is one member, `LOCAL`. Every record carries the name of its member.
"""

from __future__ import annotations

from proxy.members.member import LOCAL

__all__ = ["LOCAL"]
