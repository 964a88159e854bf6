"""The log lines that the web interface shows."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime

from proxy.jobs.subscribers import ListeningClients, Subscribers
from proxy.translate.events import Event

#: Maximum log lines of a member, as in ComfyUI.
MAX_LINES = 300
#: Maximum number of a member's clients that get log lines.
MAX_LISTENING = 1000


class Journal:
    """The last log lines of each member, which go to the sockets that subscribed. Only `add` may be
    called from other threads."""

    def __init__(self, subscribers: Subscribers) -> None:
        self._subscribers = subscribers
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, deque[dict[str, str]]] = {}
        self._listening = ListeningClients(MAX_LISTENING)

    def add(self, member: str, time: float, text: str) -> None:
        """Add a line about a member, written at `time` (seconds since 1970)."""
        line = {"t": datetime.fromtimestamp(time).isoformat(), "m": f"{text}\n"}  # noqa: DTZ006
        self._lines.setdefault(member, deque(maxlen=MAX_LINES)).append(line)
        if self._listening.any_of(member):
            self._loop.call_soon_threadsafe(self._send, member, line)

    def lines(self, member: str) -> list[dict[str, str]]:
        """Return the member's lines, the oldest first: `t` is the local time, `m` ends with a
        newline."""
        return list(self._lines.get(member, ()))

    def subscribe(self, member: str, client_id: str, *, wanted: bool = True) -> None:
        """Start (`wanted`) or stop sending new lines to the member's socket of a `clientId`."""
        self._listening.change(member, client_id, wants=wanted)

    def _send(self, member: str, line: dict[str, str]) -> None:
        event = Event("logs", {"entries": [line], "size": None})
        for client_id in self._listening.of(member):
            if self._subscribers.has(member, client_id):
                self._subscribers.send_to(member, client_id, event)
            else:
                self._listening.change(member, client_id, wants=False)
