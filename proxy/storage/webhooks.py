"""Webhooks: the endpoints, and the deliveries of messages to them.

A message is written in the unit that records what it tells, as one delivery for each endpoint that
wants its type: none is lost, and none tells what did not happen. Only the engine of the lease
delivers. It holds a delivery for the time of an attempt, so that no other engine sends it, too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import (
    BigInteger,
    Connection,
    Index,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from proxy.storage.database import Repository, StorageError
from proxy.storage.leases import Fence, check_fence, database_now
from proxy.storage.statements import Upsert, get_meta, put_meta, run
from proxy.storage.tables import PlainText, table_of

#: The owner of the endpoints that get the messages of all members, and those about accounts.
GATEWAY = ""

#: Attempts of an endpoint at once.
_MAX_CONCURRENT = 4
#: Deliveries that have ended and stay in the log of an endpoint.
KEPT = 200

#: Values of `meta`: what was told of accounts, and what those who add endpoints lock.
_ACCOUNTS, _LOCK = "webhook_accounts", "webhooks"


class StoredWebhook(Struct, frozen=True):
    """An endpoint. `member` is its owner, or `GATEWAY`.

    Without a `url` it is that of the URLs that jobs of the member name. `types` is a JSON list of
    the types of messages that it gets, `secret` is encrypted. `disabled` says since `disabled_at`
    why it gets nothing more; attempts have failed since `failing_since`. Times are ms since 1970.
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

    `message` is its id and `body` its JSON; `url` is that of a job, empty for the endpoint's.
    `attempts` were begun, the last one `attempted`; it ended with the HTTP `status`, or without an
    answer, and the `note` says what went wrong. The next one is `due` by the clock of the database,
    `None` once there is none: then the `outcome` is `delivered`, `failed` or `dropped`, before it
    is `waiting`. Other times are ms since 1970.
    """

    webhook: PlainText
    message: PlainText
    type: PlainText
    url: str
    body: bytes
    created: int
    due: int | None = 0
    attempts: int = 0
    attempted: int | None = None
    status: int | None = None
    outcome: PlainText = "waiting"
    note: str = ""


webhooks = table_of(StoredWebhook, "webhooks", Index("ix_webhooks_member", "member"), keys=("id",))
deliveries = table_of(
    StoredDelivery,
    "webhook_deliveries",
    Index("ix_webhook_deliveries_due", "due"),
    Index("ix_webhook_deliveries_webhook_due_created", "webhook", "due", "created"),
    Index("ix_webhook_deliveries_webhook_created", "webhook", "created"),
    keys=("webhook", "message"),
)


class WebhookMessage(Struct, frozen=True):
    """Something that happened to a `member` (or `GATEWAY`), as the JSON `body`.

    Endpoints that have it twice know it by its `id`. A `url` that a job names gets it, too, signed
    with the secret of the member's endpoint for such URLs, which begins with `new_secret`
    (encrypted) where there is none yet.
    """

    id: PlainText
    type: PlainText
    member: str
    body: bytes
    created: int
    url: str = ""
    new_secret: bytes = b""


class Claimed(Struct, frozen=True):
    """A delivery that this engine may attempt now, with what is needed of its endpoint."""

    webhook: str
    message: str
    type: str
    member: str
    url: str
    secret: bytes
    body: bytes
    created: int
    attempts: int
    of_job: bool
    failing: bool


class Attempted(Struct, frozen=True):
    """How an attempt has ended. The next one is in `wait` seconds, if there is one.

    `disabled` says why the endpoint gets nothing more, if it has failed for `disabled_after`
    seconds.
    """

    outcome: str
    status: int | None = None
    note: str = ""
    wait: float | None = None
    disabled: str | None = None
    disabled_after: float = 0.0


class Outlook(Struct, frozen=True):
    """The types of messages that any endpoint wants, and seconds until the next attempt."""

    types: frozenset[str]
    wait: float | None


class TooManyWebhooksError(StorageError):
    """Raised where an owner has as many endpoints as may be."""


_W, _D = webhooks.c, deliveries.c
_BY_ID = _W.id == bindparam("i")
_WANTING = select(_W.id, _W.types).where(
    _W.member.in_((bindparam("m"), GATEWAY)), _W.url != "", _W.disabled.is_(None)
)
_FOR_JOBS = select(_W.id).where(_W.member == bindparam("m"), _W.url == "")
_FAILING = select(_W.failing_since).where(_BY_ID)
_ADD = insert(webhooks)
_DELIVER = Upsert(deliveries, how="keep")
_ALL_TYPES = select(_W.types).where(_W.disabled.is_(None)).distinct()
_NOW = select(database_now())
_NEXT = select(func.min(_D.due))
_INNER = deliveries.alias()
_DUE_NOW = (_INNER.c.webhook == _W.id, _INNER.c.due <= bindparam("now", type_=BigInteger))
_OLDEST = (
    select(_INNER.c.created)
    .where(*_DUE_NOW)
    .order_by(_INNER.c.due, _INNER.c.created)
    .limit(1)
    .correlate(webhooks)
    .scalar_subquery()
)
_DUE = (
    select(_W.id, _W.failing_since)
    .where(
        _W.id.not_in(bindparam("full", expanding=True)),
        _W.failing_since.is_(None) | _W.id.not_in(bindparam("busy", expanding=True)),
        _OLDEST.is_not(None),
    )
    # First those that work: they leave room again soon, however many others hang.
    .order_by(_W.failing_since.is_not(None), _OLDEST, _W.id)
    .limit(bindparam("limit", type_=BigInteger))
)
_DUE_OF = (
    select(_D.message)
    .where(_D.webhook == bindparam("w"), _D.due <= bindparam("now", type_=BigInteger))
    .order_by(_D.due, _D.created)
    .limit(bindparam("limit", type_=BigInteger))
)
_THIS = update(deliveries).where(_D.webhook == bindparam("w"), _D.message == bindparam("i"))
_HOLD = _THIS.values(
    due=bindparam("until", type_=BigInteger),
    attempts=_D.attempts + 1,
    attempted=bindparam("now", type_=BigInteger),
)
_SETTLE = _THIS.where(_D.attempts == bindparam("number", type_=BigInteger)).values(
    due=bindparam("next", type_=BigInteger),
    status=bindparam("answered", type_=BigInteger),
    outcome=bindparam("as"),
    note=bindparam("about"),
)
#: What was dropped during the attempt, with its endpoint, is not attempted again.
_SETTLE_WAITING = _SETTLE.where(_D.due.is_not(None))
#: What a clock of the database that was ahead has put off.
_BRING_FORWARD = (
    update(deliveries)
    .where(_D.due > bindparam("latest", type_=BigInteger))
    .values(due=bindparam("now", type_=BigInteger))
)
_CLAIMED = (
    select(deliveries, _W.member, _W.secret, _W.url.label("endpoint"), _W.failing_since)
    .join(webhooks, _W.id == _D.webhook)
    .where(_D.webhook == bindparam("w"), _D.message == bindparam("i"))
)


class WebhookRepository(Repository):
    """The endpoints of everybody, and what is delivered to them."""

    # --- endpoints -------------------------------------------------------------------------

    async def endpoints(self, member: str | None = None) -> list[StoredWebhook]:
        """Return the endpoints of an owner, or of all, the oldest first."""
        query = select(webhooks).order_by(_W.created, _W.id)
        if member is not None:
            query = query.where(_W.member == member)
        return [StoredWebhook(**row._mapping) for row in await self._all(query)]

    async def get(self, id_: str) -> StoredWebhook | None:
        """Return an endpoint."""
        row = await self._first(select(webhooks).where(_BY_ID), {"i": id_})
        return None if row is None else StoredWebhook(**row._mapping)

    async def add(self, webhook: StoredWebhook, *, limit: int) -> None:
        """Write an endpoint. Raises `TooManyWebhooksError` if its owner has `limit` others with a
        URL."""

        def work(connection: Connection) -> None:
            get_meta(connection, _LOCK, lock=True)
            count = select(func.count()).where(_W.member == webhook.member, _W.url != "")
            if connection.execute(count).scalar_one() >= limit:
                raise TooManyWebhooksError("too many webhooks")
            connection.execute(_ADD, asdict(webhook))

        await self.write(work)

    async def change(self, id_: str, **values: Any) -> bool:
        """Set fields of an endpoint; return whether there is one. What waits for one that is
        disabled is dropped."""

        def work(connection: Connection) -> bool:
            change = update(webhooks).where(_W.id == id_).values(values)
            if values.get("disabled") is not None:
                _drop(connection, id_)
            return bool(connection.execute(change).rowcount)

        return await self.write(work)

    async def remove(self, id_: str) -> bool:
        """Delete an endpoint with its deliveries; return whether there was one."""

        def work(connection: Connection) -> bool:
            connection.execute(delete(deliveries).where(_D.webhook == id_))
            return bool(connection.execute(delete(webhooks).where(_W.id == id_)).rowcount)

        return await self.write(work)

    # --- messages --------------------------------------------------------------------------

    async def send(self, id_: str, message: WebhookMessage) -> None:
        """Write a delivery to one endpoint, whatever types it wants."""
        await self.write(lambda connection: _deliver(connection, id_, message))

    async def tell_accounts(
        self, troubles: Mapping[str, str], messages: Sequence[WebhookMessage], *, fence: Fence
    ) -> None:
        """Write messages about accounts, and what they have told: the trouble of each that has
        one."""

        def work(connection: Connection) -> None:
            check_fence(connection, fence)
            put_meta(connection, _ACCOUNTS, dict(troubles))
            for message in messages:
                add_message(connection, message)

        await self.write(work)

    async def sent_accounts(self) -> dict[str, str]:
        """Return the troubles of accounts that were told last."""
        return await self._database.read(lambda connection: get_meta(connection, _ACCOUNTS) or {})

    async def log(self, id_: str, limit: int) -> list[StoredDelivery]:
        """Return the newest deliveries to an endpoint, the newest first."""
        query = select(deliveries).where(_D.webhook == id_)
        query = query.order_by(_D.created.desc(), _D.message.desc()).limit(limit)
        return [StoredDelivery(**row._mapping) for row in await self._all(query)]

    async def last(self, member: str | None = None) -> dict[str, StoredDelivery]:
        """Return the delivery of each endpoint of an owner, or of all, that was attempted last."""
        newest = select(_D.webhook, func.max(_D.attempted).label("at")).group_by(_D.webhook)
        if member is not None:
            newest = newest.where(_D.webhook.in_(select(_W.id).where(_W.member == member)))
        latest = newest.subquery()
        query = select(deliveries).join(
            latest, (latest.c.webhook == _D.webhook) & (latest.c.at == _D.attempted)
        )
        rows = [StoredDelivery(**row._mapping) for row in await self._all(query)]
        return {row.webhook: row for row in rows}

    async def disabled(self, owners: Sequence[str]) -> int:
        """Return how many endpoints of owners get nothing more."""
        query = select(func.count()).where(_W.member.in_(owners), _W.disabled.is_not(None))
        ((count,),) = await self._all(query)
        return int(count)

    # --- the engine ------------------------------------------------------------------------

    async def outlook(self) -> Outlook:
        """Return what endpoints want, and when the next attempt is due."""

        def work(connection: Connection) -> Outlook:
            lists = connection.execute(_ALL_TYPES).scalars()
            types = frozenset(name for found in lists for name in msgspec.json.decode(found))
            due = connection.execute(_NEXT).scalar()
            if due is None:
                return Outlook(types, None)
            now = connection.execute(_NOW).scalar_one()
            return Outlook(types, max(0, due - now) / 1000)

        return await self._database.read(work)

    async def claim(
        self, limit: int, under_way: Mapping[str, int], *, hold: float, fence: Fence
    ) -> list[Claimed]:
        """Return at most `limit` deliveries that are due, which no engine attempts again within
        `hold` seconds.

        An endpoint gets `_MAX_CONCURRENT` attempts at once, counted with those that are
        `under_way`, and one while it fails.
        """

        def work(connection: Connection) -> list[Claimed]:
            check_fence(connection, fence)
            now = connection.execute(_NOW).scalar_one()
            busy = list(under_way)
            full = [id_ for id_ in busy if under_way[id_] >= _MAX_CONCURRENT]
            due = {"full": full, "busy": busy, "now": now, "limit": limit}
            claimed: list[Claimed] = []
            for row in connection.execute(_DUE, due).all():
                room = 1 if row.failing_since is not None else _MAX_CONCURRENT
                room = min(room - under_way.get(row.id, 0), limit - len(claimed))
                of = {"w": row.id, "now": now, "limit": max(0, room)}
                for message in connection.execute(_DUE_OF, of).scalars().all():
                    key = {"w": row.id, "i": message}
                    until = now + round(hold * 1000)
                    connection.execute(_HOLD, {**key, "until": until, "now": now})
                    claimed.append(_claimed(connection.execute(_CLAIMED, key).one()))
            return claimed

        return await self.write(work)

    async def settle(self, claimed: Claimed, attempted: Attempted) -> bool:
        """Write how an attempt has ended, and what that says of its endpoint; return whether that
        is disabled now. An engine may do so behind its lease, unless another one has claimed the
        delivery since."""

        def work(connection: Connection) -> bool:
            now = connection.execute(_NOW).scalar_one()
            values = {
                "w": claimed.webhook,
                "i": claimed.message,
                "number": claimed.attempts,
                "next": None if attempted.wait is None else now + round(attempted.wait * 1000),
                "answered": attempted.status,
                "as": attempted.outcome,
                "about": attempted.note,
            }
            settle = _SETTLE if attempted.wait is None else _SETTLE_WAITING
            if not connection.execute(settle, values).rowcount or claimed.of_job:
                return False
            return _judge(connection, claimed, attempted, now)

        return await self.write(work)

    async def bring_forward(self, longest: float) -> None:
        """Make due now what is due later than in `longest` seconds: it was put off while the clock
        of the database was ahead."""

        def work(connection: Connection) -> None:
            now = connection.execute(_NOW).scalar_one()
            latest = now + round(longest * 1000)
            connection.execute(_BRING_FORWARD, {"now": now, "latest": latest})

        await self.write(work)

    async def forget(self, before: int) -> None:
        """Delete ended deliveries from before a moment (ms), and those beyond the newest `KEPT` of
        each endpoint."""
        ended = _D.due.is_(None)

        def work(connection: Connection) -> None:
            connection.execute(delete(deliveries).where(ended, _D.created < before))
            for id_ in connection.execute(select(_W.id)).scalars().all():
                mine = (ended, _D.webhook == id_)
                oldest = (
                    select(_D.created).where(*mine).order_by(_D.created.desc()).offset(KEPT - 1)
                )
                last = connection.execute(oldest.limit(1)).scalar()
                if last is not None:
                    connection.execute(delete(deliveries).where(*mine, _D.created < last))

        await self.write(work)

    async def replace_secrets(self, secrets: Mapping[str, tuple[bytes, bytes]]) -> None:
        """Write encrypted secrets, by endpoint the old and the new one, where they are still the
        old ones."""

        def work(connection: Connection) -> None:
            for id_, (old, new) in secrets.items():
                same = (_W.id == id_, _W.secret == old)
                connection.execute(update(webhooks).where(*same).values(secret=new))

        await self.write(work)


def add_message(connection: Connection, message: WebhookMessage) -> None:
    """Write the deliveries of a message to all endpoints that want it, in the caller's unit."""
    for row in run(connection, _WANTING, {"m": message.member}).all():
        if message.type in msgspec.json.decode(row.types):
            _deliver(connection, row.id, message)
    if message.url:
        _deliver(connection, _endpoint_for_jobs(connection, message), message, message.url)


def remove_webhooks(connection: Connection, members: Collection[str]) -> None:
    """Delete the endpoints of members with their deliveries, in the caller's unit."""
    gone = select(_W.id).where(_W.member.in_(sorted(members)))
    connection.execute(delete(deliveries).where(_D.webhook.in_(gone)))
    connection.execute(delete(webhooks).where(_W.member.in_(sorted(members))))


def _deliver(connection: Connection, id_: str, message: WebhookMessage, url: str = "") -> None:
    delivery = StoredDelivery(id_, message.id, message.type, url, message.body, message.created)
    run(connection, _DELIVER, asdict(delivery))


def _endpoint_for_jobs(connection: Connection, message: WebhookMessage) -> str:
    """Return the id of the member's endpoint for URLs of jobs, which is made for the first one."""
    id_ = run(connection, _FOR_JOBS, {"m": message.member}).scalar_one_or_none()
    if id_ is None:
        id_ = f"wh_{message.id.rpartition('_')[2]}"
        made = StoredWebhook(id_, message.member, "", b"[]", message.new_secret, message.created)
        run(connection, _ADD, asdict(made))
    return str(id_)


def _claimed(row: Any) -> Claimed:
    return Claimed(
        row.webhook,
        row.message,
        row.type,
        row.member,
        row.url or row.endpoint,
        row.secret,
        row.body,
        row.created,
        row.attempts,
        of_job=bool(row.url),
        failing=row.failing_since is not None,
    )


def _judge(connection: Connection, claimed: Claimed, attempted: Attempted, now: int) -> bool:
    """Write what an attempt says of its endpoint, in the caller's unit; return whether that is
    disabled now."""
    mine = update(webhooks).where(_W.id == claimed.webhook)
    if attempted.outcome == "delivered":
        if claimed.failing:
            connection.execute(mine.values(failing_since=None))
        return False
    failing = run(connection, _FAILING, {"i": claimed.webhook}).scalar_one_or_none()
    since = now if failing is None else failing
    connection.execute(mine.values(failing_since=since))
    if attempted.disabled is None or now - since < attempted.disabled_after * 1000:
        return False
    off = {"disabled": attempted.disabled, "disabled_at": now}
    is_new = connection.execute(mine.where(_W.disabled.is_(None)).values(off)).rowcount
    _drop(connection, claimed.webhook)
    return bool(is_new)


def _drop(connection: Connection, id_: str) -> None:
    """End what waits for an endpoint that is disabled, in the caller's unit."""
    waiting = (_D.webhook == id_, _D.due.is_not(None), _D.url == "")
    dropped = {"due": None, "outcome": "dropped", "note": "The webhook was disabled."}
    connection.execute(update(deliveries).where(*waiting).values(dropped))
