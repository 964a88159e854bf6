"""Webhooks: the endpoints, and the deliveries of messages to them.

A message is written in the unit that records what it tells, as one delivery for each endpoint that
wants its type: none is lost, and none tells what did not happen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import (
    Connection,
    Index,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from proxy.storage.database import Repository, UnitRefusedError
from proxy.storage.leases import Fence, check_fence
from proxy.storage.statements import Upsert, get_meta, put_meta, run
from proxy.storage.tables import AnyText, PlainText, table_of

#: The owner of the endpoints that get the messages of all members, and those about accounts.
GATEWAY = ""

#: Values of `meta`: what was reported of accounts, and what those who add endpoints lock.
_ACCOUNTS, _LOCK = "webhook_accounts", "webhooks"


class StoredWebhook(Struct, frozen=True):
    """An endpoint. `member` is its owner, or `GATEWAY`.

    `types` is a JSON list of the types of messages that it gets, `secret` is encrypted. `disabled`
    says since `disabled_at` why it gets nothing more; attempts have failed since `failing_since`.
    Times are ms since 1970.
    """

    id: PlainText
    member: str
    url: str
    types: bytes
    secret: bytes
    created: int
    disabled: str | None = None
    disabled_at: int | None = None
    failing_since: int | None = None


class StoredDelivery(Struct, frozen=True):
    """A message on its way to an endpoint, or its end.

    `message` is its id, of which `StoredMessage` has the body. `attempts` were begun, the last one
    `attempted`; it ended with the HTTP `status`, or without an answer, and the `note` says what
    went wrong. The next one is `due` by the clock of the database, `None` once there is none: then
    the `outcome` is `delivered`, `failed` or `dropped`, before it is `waiting`. Other times are ms
    since 1970.
    """

    webhook: PlainText
    message: PlainText
    type: PlainText
    created: int
    due: int | None = 0
    attempts: int = 0
    attempted: int | None = None
    status: int | None = None
    outcome: PlainText = "waiting"
    note: str = ""


class StoredMessage(Struct, frozen=True):
    """The JSON of a message, once for all its deliveries that are not over."""

    id: PlainText
    body: bytes


webhooks = table_of(StoredWebhook, "webhooks", Index("ix_webhooks_member", "member"), keys=("id",))
deliveries = table_of(
    StoredDelivery,
    "webhook_deliveries",
    Index("ix_webhook_deliveries_due", "due"),
    Index("ix_webhook_deliveries_webhook_due_created", "webhook", "due", "created"),
    Index("ix_webhook_deliveries_webhook_created", "webhook", "created"),
    Index("ix_webhook_deliveries_message", "message"),
    keys=("webhook", "message"),
)
stored_messages = table_of(StoredMessage, "webhook_messages", keys=("id",))


class WebhookMessage(Struct, frozen=True):
    """Something that happened to a `member` (or `GATEWAY`), as the JSON `body`.

    Endpoints that have it twice know it by its `id`.
    """

    id: PlainText
    type: PlainText
    member: str
    body: bytes
    created: int


class TooManyWebhooksError(UnitRefusedError):
    """Raised where an owner has as many endpoints as may be."""


_W, _D = webhooks.c, deliveries.c
#: Clients ask for an endpoint with any text.
_BY_ID = _W.id == bindparam("i", type_=AnyText)
_WANTING = select(_W.id, _W.types).where(
    _W.member.in_((bindparam("m"), GATEWAY)), _W.disabled.is_(None)
)
_ADD = insert(webhooks)
_DELIVER = Upsert(deliveries, how="keep")
_STORE = Upsert(stored_messages, how="keep")


class WebhookRepository(Repository):
    """The endpoints of everybody, and what is delivered to them."""

    # --- endpoints -------------------------------------------------------------------------

    async def endpoints(self, member: str | None = None) -> list[StoredWebhook]:
        """Return the endpoints of an owner, or of all, the oldest first."""
        query = select(webhooks).order_by(_W.created, _W.id)
        if member is not None:
            query = query.where(_W.member == member)
        return await self._records(StoredWebhook, query)

    async def get(self, id_: str) -> StoredWebhook | None:
        """Return an endpoint."""
        return await self._record(StoredWebhook, select(webhooks).where(_BY_ID), {"i": id_})

    async def add(self, webhook: StoredWebhook, *, limit: int) -> None:
        """Write an endpoint. Raises `TooManyWebhooksError` if its owner has `limit` others."""

        def work(connection: Connection) -> None:
            get_meta(connection, _LOCK, lock=True)
            count = select(func.count()).where(_W.member == webhook.member)
            if connection.execute(count).scalar_one() >= limit:
                raise TooManyWebhooksError("too many webhooks")
            connection.execute(_ADD, asdict(webhook))

        await self.database.write(work)

    async def change(self, id_: str, **values: Any) -> bool:
        """Set fields of an endpoint; return whether there is one. What waits for one that is
        disabled is dropped."""

        def work(connection: Connection) -> bool:
            change = update(webhooks).where(_W.id == id_).values(values)
            if values.get("disabled") is not None:
                drop_waiting(connection, id_)
            return bool(connection.execute(change).rowcount)

        return await self.database.write(work)

    async def remove(self, id_: str) -> bool:
        """Delete an endpoint with its deliveries; return whether there was one."""

        def work(connection: Connection) -> bool:
            connection.execute(delete(deliveries).where(_D.webhook == id_))
            return bool(connection.execute(delete(webhooks).where(_W.id == id_)).rowcount)

        return await self.database.write(work)

    async def replace_secrets(self, secrets: Mapping[str, tuple[bytes, bytes]]) -> None:
        """Write encrypted secrets, by endpoint the old and the new one, where they are still the
        old ones."""

        def work(connection: Connection) -> None:
            for id_, (old, new) in secrets.items():
                same = (_W.id == id_, _W.secret == old)
                connection.execute(update(webhooks).where(*same).values(secret=new))

        await self.database.write(work)

    # --- messages --------------------------------------------------------------------------

    async def send(self, id_: str, message: WebhookMessage) -> None:
        """Write a delivery to one endpoint, whatever types it wants."""
        await self.database.write(lambda connection: _deliver(connection, id_, message))

    async def send_account_messages(
        self,
        sent: Mapping[str, str],
        troubles: Mapping[str, str],
        messages: Sequence[WebhookMessage],
        *,
        fence: Fence,
    ) -> bool:
        """Write messages about accounts, and what they report: the trouble of each that has one.
        Return false if something else than `sent` was reported before: it may be the same."""

        def work(connection: Connection) -> bool:
            check_fence(connection, fence)
            if (get_meta(connection, _ACCOUNTS, lock=True) or {}) != sent:
                return False
            put_meta(connection, _ACCOUNTS, dict(troubles))
            add_messages(connection, messages)
            return True

        return await self.database.write(work)

    async def sent_accounts(self) -> dict[str, str]:
        """Return the troubles of accounts that were reported last."""
        return await self.database.read(lambda connection: get_meta(connection, _ACCOUNTS) or {})

    async def log(self, id_: str, limit: int) -> list[StoredDelivery]:
        """Return the newest deliveries to an endpoint, the newest first."""
        query = select(deliveries).where(_D.webhook == id_)
        query = query.order_by(_D.created.desc(), _D.message.desc()).limit(limit)
        return await self._records(StoredDelivery, query)

    async def last(self, member: str | None = None) -> dict[str, StoredDelivery]:
        """Return the delivery of each endpoint of an owner, or of all, that was attempted last."""
        newest = select(_D.webhook, func.max(_D.attempted).label("at")).group_by(_D.webhook)
        if member is not None:
            newest = newest.where(_D.webhook.in_(select(_W.id).where(_W.member == member)))
        latest = newest.subquery()
        query = select(deliveries).join(
            latest, (latest.c.webhook == _D.webhook) & (latest.c.at == _D.attempted)
        )
        rows = await self._records(StoredDelivery, query)
        return {row.webhook: row for row in rows}

    async def disabled(self, owners: Sequence[str]) -> int:
        """Return how many endpoints of owners get nothing more."""
        query = select(func.count()).where(_W.member.in_(owners), _W.disabled.is_not(None))
        ((count,),) = await self._all(query)
        return int(count)


def add_messages(connection: Connection, messages: Iterable[WebhookMessage]) -> None:
    """Write the deliveries of each message to all endpoints that want it, in the caller's unit."""
    for message in messages:
        for row in run(connection, _WANTING, {"m": message.member}).all():
            if message.type in msgspec.json.decode(row.types):
                _deliver(connection, row.id, message)


def remove_webhooks(connection: Connection, members: Collection[str]) -> None:
    """Delete the endpoints of members with their deliveries, in the caller's unit."""
    gone = select(_W.id).where(_W.member.in_(sorted(members)))
    connection.execute(delete(deliveries).where(_D.webhook.in_(gone)))
    connection.execute(delete(webhooks).where(_W.member.in_(sorted(members))))


def _deliver(connection: Connection, id_: str, message: WebhookMessage) -> None:
    run(connection, _STORE, asdict(StoredMessage(message.id, message.body)))
    delivery = StoredDelivery(id_, message.id, message.type, message.created)
    run(connection, _DELIVER, asdict(delivery))


def drop_waiting(connection: Connection, id_: str) -> None:
    """End what waits for an endpoint that is disabled, in the caller's unit."""
    waiting = (_D.webhook == id_, _D.due.is_not(None))
    dropped = {"due": None, "outcome": "dropped", "note": "The webhook was disabled."}
    connection.execute(update(deliveries).where(*waiting).values(dropped))
