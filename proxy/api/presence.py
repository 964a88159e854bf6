"""Who is connected by a websocket, so that those whose access ends can be shown out."""

from __future__ import annotations

import asyncio
from typing import Protocol

import aiohttp
import structlog
from aiohttp import web

from proxy.api.access import Admission, Door

log = structlog.get_logger(__name__)

#: The reason in the close frame.
SHOWN_OUT = "Your access to this server has ended."
#: How long a client has to take the close frame, in seconds.
PATIENCE = 0.5


class Guest(Protocol):
    """A websocket of a client."""

    def leave(self, code: int, reason: str, *, patience: float = ...) -> asyncio.Task[None]:
        """Deliver nothing more, say goodbye, and cut the connection after `patience` seconds."""


class Presence:
    """The open websockets and how they were let in."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._guests: dict[Guest, Admission] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def enter(self, guest: Guest, admission: Admission) -> None:
        """A websocket was opened."""
        self._guests[guest] = admission
        if not self._door.stands(admission):  # its access ended while it shook hands
            self._show_out(guest)

    def exit(self, guest: Guest) -> None:
        """A websocket is gone."""
        self._guests.pop(guest, None)

    def review(self) -> None:
        """Show out those whose access has ended."""
        for guest, admission in list(self._guests.items()):
            if not self._door.stands(admission):
                log.info("shown_out", member=admission.member)
                self._show_out(guest)

    def _show_out(self, guest: Guest) -> None:
        task = guest.leave(aiohttp.WSCloseCode.POLICY_VIOLATION, SHOWN_OUT, patience=PATIENCE)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


PRESENCE = web.AppKey("presence", Presence)
