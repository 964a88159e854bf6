"""Outputs that could not be written to the output directory yet."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import Connection, bindparam, delete, literal, select, tuple_

from proxy.storage.statements import Upsert, run_many
from proxy.storage.tables import AnyText, table_of


class MissingOutput(Struct, frozen=True):
    """An output of a member that is not in the output directory since `missing_since` (ms)."""

    member: str
    path: str
    missing_since: int


missing_outputs = table_of(MissingOutput, "missing_outputs", keys=("member", "path"), rowid=False)
_ADD = Upsert(missing_outputs, how="keep")
_KEY = (missing_outputs.c.member, missing_outputs.c.path)
_DELETE = delete(missing_outputs).where(
    missing_outputs.c.member == bindparam("m"), missing_outputs.c.path == bindparam("p")
)


class MissingOutputs:
    """The missing outputs within a unit of work."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add(self, outputs: Iterable[MissingOutput]) -> None:
        """Add outputs; of one that is there already the time stays."""
        run_many(self._connection, _ADD, [asdict(output) for output in outputs])

    def page(self, after: MissingOutput | None, *, limit: int) -> list[MissingOutput]:
        """Return outputs in the order of members and paths, those that follow `after`."""
        query = select(missing_outputs).order_by(*_KEY).limit(limit)
        if after is not None:
            key = (literal(part, AnyText) for part in (after.member, after.path))
            query = query.where(tuple_(*_KEY) > tuple_(*key))
        return [MissingOutput(*row) for row in self._connection.execute(query)]

    def delete(self, outputs: Iterable[MissingOutput]) -> None:
        """Forget outputs."""
        keys = [{"m": output.member, "p": output.path} for output in outputs]
        if keys:
            self._connection.execute(_DELETE, keys)
