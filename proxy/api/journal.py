"""What a member may read of the proxy's log, and who of it hears new lines at once."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime
from typing import Any

from proxy.jobs.hub import Hub
from proxy.translate.messages import Event

#: Lines kept for each member, as many as ComfyUI keeps.
KEPT = 300


class Journal:
    """The last lines about each member. Only `add` may be called from other threads."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, deque[dict[str, str]]] = {}
        self._listening: dict[str, set[str]] = {}

    def add(self, member: str, time: float, text: str) -> None:
        """A line about a member was written at `time` (seconds since 1970)."""
        line = {"t": datetime.fromtimestamp(time).isoformat(), "m": f"{text}\n"}  # noqa: DTZ006
        self._lines.setdefault(member, deque(maxlen=KEPT)).append(line)
        if self._listening.get(member):
            self._loop.call_soon_threadsafe(self._tell, member, line)

    def lines(self, member: str) -> list[dict[str, str]]:
        """The member's lines, the oldest first: `t` is the local time, `m` ends with a newline."""
        return list(self._lines.get(member, ()))

    def subscribe(self, member: str, client_id: str) -> None:
        """Send new lines to the member's socket of that `clientId`, until it has gone."""
        self._listening.setdefault(member, set()).add(client_id)

    def unsubscribe(self, member: str, client_id: str) -> None:
        """Send no more; nothing happens if none were sent."""
        self._listening.get(member, set()).discard(client_id)

    def _tell(self, member: str, line: dict[str, str]) -> None:
        data: dict[str, Any] = {"entries": [line], "size": None}
        for client_id in list(self._listening.get(member, ())):
            if self._hub.listens(member, client_id):
                self._hub.tell(member, client_id, Event("logs", data))
            else:
                self.unsubscribe(member, client_id)
