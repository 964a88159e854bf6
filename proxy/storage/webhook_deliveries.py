"""Deliveries to webhooks, as the engine of the lease attempts them.

It holds a delivery for the time of an attempt, so that no other engine sends it, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy import BigInteger, Connection, bindparam, delete, exists, func, select, update

from proxy.storage.database import Repository
from proxy.storage.leases import Fence, check_fence, database_now
from proxy.storage.statements import run
from proxy.storage.webhooks import deliveries, drop_waiting, stored_messages, webhooks

#: Attempts of an endpoint at once.
_MAX_CONCURRENT = 4
#: Deliveries that have ended and stay in the log of an endpoint.
KEPT = 200


class Claimed(Struct, frozen=True):
    """A delivery that the leader may attempt now, with what is needed of its endpoint."""

    webhook: str
    message: str
    type: str
    member: str
    url: str
    secret: bytes
    body: bytes
    created: int
    attempts: int
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
    """The types of messages that any endpoint wants, seconds until the next attempt, and the
    endpoints of attempts that are gone."""

    types: frozenset[str]
    wait: float | None
    gone: frozenset[str] = frozenset()


_W, _D = webhooks.c, deliveries.c
_FAILING = select(_W.failing_since).where(_W.id == bindparam("i"))
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
    select(_W.id, _W.failing_since, _W.member)
    .where(
        _W.member.not_in(bindparam("owners", expanding=True)),
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
    select(
        deliveries,
        stored_messages.c.body,
        _W.member,
        _W.secret,
        _W.url,
        _W.failing_since,
    )
    .join(webhooks, _W.id == _D.webhook)
    .join(stored_messages, stored_messages.c.id == _D.message)
    .where(_D.webhook == bindparam("w"), _D.message == bindparam("i"))
)
_KNOWN = select(_W.id).where(_W.id.in_(bindparam("ids", expanding=True)))
#: Bodies that no delivery waits for.
_ENDED_BODIES = delete(stored_messages).where(
    stored_messages.c.id.not_in(select(_D.message).where(_D.due.is_not(None)))
)
_ENDED_BODY = delete(stored_messages).where(
    stored_messages.c.id == bindparam("i"),
    ~exists().where(_D.message == bindparam("i"), _D.due.is_not(None)),
)


class WebhookDeliveryRepository(Repository):
    """The deliveries to all endpoints, for the engine."""

    async def outlook(self, under_way: Collection[str] = ()) -> Outlook:
        """Return what endpoints want, when the next attempt is due, and which of the endpoints with
        attempts that are `under_way` are gone."""
        ids = list(under_way)

        def work(connection: Connection) -> Outlook:
            lists = connection.execute(_ALL_TYPES).scalars()
            types = frozenset(name for found in lists for name in msgspec.json.decode(found))
            known = connection.execute(_KNOWN, {"ids": ids}).scalars() if ids else ()
            gone = frozenset(ids).difference(known)
            due = connection.execute(_NEXT).scalar()
            if due is None:
                return Outlook(types, None, gone)
            now = connection.execute(_NOW).scalar_one()
            return Outlook(types, max(0, due - now) / 1000, gone)

        return await self.database.read(work)

    async def claim(
        self,
        limit: int,
        under_way: Mapping[str, int],
        *,
        hold: float,
        fence: Fence,
        attempts: Callable[[], Callable[[str], bool]],
        excluded: Collection[str] = (),
    ) -> list[Claimed]:
        """Return at most `limit` deliveries that are due, which no engine attempts again within
        `hold` seconds; none of the owners that are `excluded`.

        An endpoint gets `_MAX_CONCURRENT` attempts at once, counted with those that are
        `under_way`, and one while it fails; an owner as many as it takes by what
        `attempts` returns, which is made for each try of the transaction.
        """

        def work(connection: Connection) -> list[Claimed]:
            check_fence(connection, fence)
            now = connection.execute(_NOW).scalar_one()
            busy = list(under_way)
            full = [id_ for id_ in busy if under_way[id_] >= _MAX_CONCURRENT]
            due = {"full": full, "busy": busy, "now": now, "limit": limit}
            due["owners"] = list(excluded)
            take = attempts()
            claimed: list[Claimed] = []
            for row in connection.execute(_DUE, due).all():
                room = 1 if row.failing_since is not None else _MAX_CONCURRENT
                room = min(room - under_way.get(row.id, 0), limit - len(claimed))
                of = {"w": row.id, "now": now, "limit": max(0, room)}
                for message in connection.execute(_DUE_OF, of).scalars().all():
                    if not take(row.member):
                        break
                    key = {"w": row.id, "i": message}
                    until = now + round(hold * 1000)
                    connection.execute(_HOLD, {**key, "until": until, "now": now})
                    claimed.append(_claimed(connection.execute(_CLAIMED, key).one()))
            return claimed

        return await self.database.write(work)

    async def settle(self, claimed: Claimed, attempted: Attempted) -> bool:
        """Write how an attempt has ended, and what that says of its endpoint; return whether that
        is disabled now. An engine may do so after its lease, unless another one has claimed the
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
            if not connection.execute(settle, values).rowcount:
                return False
            if attempted.wait is None:
                connection.execute(_ENDED_BODY, {"i": claimed.message})
            return _judge(connection, claimed, attempted, now)

        return await self.database.write(work)

    async def bring_forward(self, longest: float) -> None:
        """Make due now what is due later than in `longest` seconds: it was put off while the clock
        of the database was ahead."""

        def work(connection: Connection) -> None:
            now = connection.execute(_NOW).scalar_one()
            latest = now + round(longest * 1000)
            connection.execute(_BRING_FORWARD, {"now": now, "latest": latest})

        await self.database.write(work)

    async def forget(self, before: int) -> None:
        """Delete ended deliveries from before a moment (ms), and those beyond the newest `KEPT` of
        each endpoint, and the bodies of messages that are on their way to nobody."""
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
            connection.execute(_ENDED_BODIES)

        await self.database.write(work)


def _claimed(row: Any) -> Claimed:
    return Claimed(
        row.webhook,
        row.message,
        row.type,
        row.member,
        row.url,
        row.secret,
        row.body,
        row.created,
        row.attempts,
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
    drop_waiting(connection, claimed.webhook)
    return bool(is_new)
