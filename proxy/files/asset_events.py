"""Events about assets, which all sockets of a member get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.bus import BusMessage, EventBus
from proxy.translate.events import Event

_TOPIC = "assets"


class AssetNews(BusMessage, frozen=True):
    """A message for all sockets of a member."""

    member: str
    event: str
    data: dict[str, Any]


class AssetEvents:
    """Sends events to the sockets of a member at every replica; `send` reaches those of this
    one."""

    def __init__(self, bus: EventBus, send: Callable[[str, Event], None]) -> None:
        self._bus = bus
        self._send = send
        bus.subscribe(_TOPIC, self._receive)

    def publish(self, member: str, event: str, data: dict[str, Any]) -> None:
        """Send an event with its data."""
        self._bus.publish(_TOPIC, AssetNews(member, event, data))

    def _receive(self, message: object) -> None:
        if isinstance(message, AssetNews):
            self._send(message.member, Event(message.event, message.data))
