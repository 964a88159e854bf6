"""What jobs have cost, by day, member, account, node class and token."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, select

from proxy.storage.statements import Upsert, run
from proxy.storage.tables import PlainText, table_of


class CostRow(Struct):
    """What a member's jobs have cost on a day (`YYYY-MM-DD`, UTC), the day of their ends.

    `node_class` is a class of partner nodes, of which `nodes` have run, or empty for the GPU, which
    ran for `seconds`. `token` is the id of the token with which the jobs were sent, or empty.
    `source` says where the `amount` (millionths of a credit) comes from. To add
    is to write a row with what is more.
    """

    day: PlainText
    member: str
    account: str
    node_class: str
    source: PlainText
    amount: int = 0
    nodes: int = 0
    seconds: float = 0.0
    token: PlainText = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What the row is about."""
        return (self.day, self.member, self.account, self.node_class, self.source, self.token)


costs = table_of(
    CostRow,
    "costs",
    keys=("day", "member", "account", "node_class", "source", "token"),
    rowid=False,
)
_ADD = Upsert(costs, how="add")


def add_costs(connection: Connection, rows: Sequence[CostRow]) -> None:
    """Add to what jobs have cost, in the caller's unit."""
    for row in sorted(rows, key=lambda row: row.key):  # in one order, so that no two units lock
        run(connection, _ADD, asdict(row))


def costs_from(
    connection: Connection, first: str, last: str, member: str | None = None
) -> list[CostRow]:
    """Return the costs from day to day, both included, of everybody or one member: by day, member,
    account, class and source."""
    query = select(costs).where(costs.c.day >= first, costs.c.day <= last)
    if member is not None:
        query = query.where(costs.c.member == member)
    rows = connection.execute(query.order_by(*costs.primary_key.columns))
    return [CostRow(**row._mapping) for row in rows]
