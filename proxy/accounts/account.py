"""One Comfy Cloud account as the rooms share it."""

from __future__ import annotations

from dataclasses import dataclass, field

from proxy.accounts.choice import may_use
from proxy.accounts.health import Health
from proxy.accounts.slots import Slots
from proxy.cloud.client import CloudClient
from proxy.cloud.event_socket import EventSocket

#: The account of a key that is set by itself.
DEFAULT = "default"


@dataclass(slots=True, eq=False)
class Account:
    """An account with its connections.

    `key` is the API key that is lent to partner nodes; it changes with `use_key`. `members` are
    those whose jobs may run on the account, none named is everybody.
    """

    name: str
    cloud: CloudClient
    socket: EventSocket
    key: str = field(repr=False)
    slots: Slots = field(default_factory=Slots)
    health: Health = field(default_factory=Health)
    weight: float = 1.0
    members: tuple[str, ...] = ()

    def allows(self, member: str) -> bool:
        """Whether the member's jobs may run here."""
        return may_use(self.members, member)

    async def use_key(self, key: str) -> None:
        """Take another key for calls and events from now on."""
        self.key = key
        self.health.renewed()
        self.cloud.use_key(key)
        await self.socket.use_key(key)
