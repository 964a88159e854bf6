"""Who is behind a client.

Without tokens there is one member, `LOCAL`. Every record carries the name of its member.
"""

from __future__ import annotations

LOCAL = "local"
