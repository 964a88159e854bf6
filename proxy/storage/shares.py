"""The fair shares as they are stored: a row for each member, and one value for all."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field
from sqlalchemy import Column, Connection, Double, Table, select

from proxy.storage.statements import Upsert, get_meta, put_meta, run
from proxy.storage.tables import AnyText, metadata

_FAIR_SHARE = "fair_share"

shares = Table(
    "shares",
    metadata,
    Column("member", AnyText, primary_key=True),
    Column("start", Double),
    Column("typical", Double),
)


class Share(Struct, frozen=True):
    """When a member's next job starts in virtual time, and how long its jobs run, in seconds."""

    start: float | None = None
    typical: float | None = None


class Shares(Struct, frozen=True):
    """The state of the fair shares: the virtual time, members that are not where it is, and the
    slots that were learned of accounts. To write is to replace the members that are named."""

    now: float = 0.0
    members: Mapping[str, Share] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)


_PUT_SHARE = Upsert(shares)


def read_shares(connection: Connection) -> Shares:
    """Return the state of the fair shares as it was last written, in the caller's unit."""
    members = {
        member: Share(start, typical)
        for member, start, typical in connection.execute(select(shares))
    }
    state = get_meta(connection, _FAIR_SHARE) or {}
    return Shares(float(state.get("now", 0.0)), members, dict(state.get("slots", {})))


def put_shares(connection: Connection, state: Shares | None) -> None:
    """Write the state of the fair shares, if there is a new one, in the caller's unit."""
    if state is None:
        return
    put_meta(connection, _FAIR_SHARE, {"now": state.now, "slots": dict(state.slots)})
    for member, share in sorted(state.members.items()):
        values = {"member": member, "start": share.start, "typical": share.typical}
        run(connection, _PUT_SHARE, values)
