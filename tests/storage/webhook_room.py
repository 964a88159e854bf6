"""Webhooks in a database, under the lease of an engine."""

from __future__ import annotations

import json
from collections.abc import Collection

from proxy.storage.database import Database
from proxy.storage.leases import ENGINE, Fence, LeaseRepository
from proxy.storage.webhook_deliveries import Attempted, Claimed, WebhookDeliveryRepository
from proxy.storage.webhooks import StoredWebhook, WebhookMessage, WebhookRepository, add_messages

DELIVERED = Attempted("delivered", 204)
AGAIN = Attempted("waiting", 500, "The endpoint answered 500.", 60.0)


def endpoint(id_: str, member: str = "anna", *types: str, url: str = "http://h/") -> StoredWebhook:
    wanted = json.dumps(types or ("job.completed",)).encode()
    return StoredWebhook(id_, member, url, wanted, b"secret", 1)


def message(id_: str, member: str = "anna", type_: str = "job.completed") -> WebhookMessage:
    return WebhookMessage(id_, type_, member, b"{}", 1)


class Room:
    """The repository under the lease of an engine."""

    def __init__(self, database: Database, fence: Fence) -> None:
        self.database, self.fence = database, fence
        self.webhooks = WebhookRepository(database)
        self.deliveries = WebhookDeliveryRepository(database)

    async def tell(self, *messages: WebhookMessage) -> None:
        await self.database.write(lambda connection: add_messages(connection, messages))

    async def claim(
        self,
        limit: int = 99,
        hold: float = 60.0,
        excluded: Collection[str] = (),
        **under_way: int,
    ) -> list[Claimed]:
        return await self.deliveries.claim(
            limit,
            under_way,
            hold=hold,
            fence=self.fence,
            attempts=lambda: lambda _owner: True,
            excluded=excluded,
        )

    async def settle(self, claimed: Claimed, attempted: Attempted) -> bool:
        return await self.deliveries.settle(claimed, attempted)

    async def log(self, id_: str = "one") -> list[tuple[str, str, int]]:
        found = await self.webhooks.log(id_, 99)
        return [(row.message, row.outcome, row.attempts) for row in found]

    async def of(self, id_: str = "one") -> StoredWebhook:
        found = await self.webhooks.get(id_)
        assert found is not None
        return found


async def leading_room(database: Database, holder: str = "engine") -> Room:
    lease = await LeaseRepository(database).acquire(ENGINE, holder, 600, alone=True)
    assert lease is not None
    return Room(database, lease.fence)


async def add(room: Room, *webhooks: StoredWebhook) -> None:
    for webhook in webhooks:
        await room.webhooks.add(webhook, limit=99)
