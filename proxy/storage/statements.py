"""Statements with a dialect for each database, and the single values of `meta`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from sqlalchemy import (
    Connection,
    CursorResult,
    Executable,
    Insert,
    Select,
    Table,
    bindparam,
    case,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from proxy.storage.tables import meta
from proxy.translate import codec

T = TypeVar("T")

_Binds: TypeAlias = list[tuple[str, bool, Any, Callable[[Any], Any] | None]]

#: Maximum number of values in one statement.
CHUNK = 500


def chunks(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """Yield the values in pieces that fit into one statement."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


class Upsert:
    """An insert that replaces `columns`, or all, of a row that is there, in the words of each
    database.

    Where `how` is `add` their new values are added to the old ones, where it is `highest` the
    larger value of each stays, and where it is `next` the old one plus 1 or the new one, whichever
    is larger, stays and is returned. Where it is `keep`, a row that is there stays as it is.
    """

    def __init__(self, table: Table, *columns: str, how: str = "set") -> None:
        self._table, self._how, self._keys = table, how, list(table.primary_key)
        self._columns = columns or [column.name for column in table.c if not column.primary_key]
        self._made: dict[str, Insert] = {}

    def __call__(self, connection: Connection) -> Insert:
        """Return the statement for the connection's database."""
        name = connection.dialect.name
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Insert:
        statement: Any
        if name == "sqlite":
            statement = sqlite.insert(self._table)
        else:
            statement = postgresql.insert(self._table)
        if self._how == "keep":
            statement = statement.on_conflict_do_nothing(index_elements=self._keys)
            # Otherwise SQLAlchemy forgets whether PostgreSQL has written the row.
            return cast(Insert, statement.execution_options(preserve_rowcount=True))
        new = {
            column: _KEPT[self._how](self._table.c[column], statement.excluded[column])
            for column in self._columns
        }
        statement = statement.on_conflict_do_update(index_elements=self._keys, set_=new)
        if self._how == "next":
            statement = statement.returning(*(self._table.c[column] for column in self._columns))
        return cast(Insert, statement)


#: The expression of an upsert for the old and the new value of a column.
_KEPT: Mapping[str, Callable[[Any, Any], Any]] = {
    "set": lambda _, new: new,
    "add": lambda old, new: old + new,
    "highest": lambda old, new: case((old >= new, old), else_=new),
    "next": lambda old, new: case((old >= new, old + 1), else_=new),
}


def run(
    connection: Connection, statement: Executable | Upsert, values: Mapping[str, Any]
) -> CursorResult[Any]:
    """Run a statement, in the words of the connection's database, with one set of values."""
    return connection.execute(
        statement(connection) if isinstance(statement, Upsert) else statement, values
    )


def run_many(
    connection: Connection, statement: Executable | Upsert, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Run a statement with several sets of values of the same names."""
    if rows:
        connection.execute(
            statement(connection) if isinstance(statement, Upsert) else statement, rows
        )


def count_rows(connection: Connection, query: Select[Any]) -> int:
    """Return how many rows a query has."""
    counted = select(func.count()).select_from(query.subquery())
    return int(connection.execute(counted).scalar_one())


_PUT_META = Upsert(meta)
_ADD_META = Upsert(meta, how="keep")
_GET_META = select(meta.c.value).where(meta.c.name == bindparam("meta"))
_LOCK_META = _GET_META.with_for_update()


def get_meta(connection: Connection, name: str, *, lock: bool = False) -> Any:
    """Return a value, `None` if there is none. With `lock` no other unit changes it before this one
    ends."""
    if lock:
        connection.execute(_ADD_META(connection), {"name": name, "value": b"null"})
    query = _LOCK_META if lock else _GET_META
    value = connection.execute(query, {"meta": name}).scalar_one_or_none()
    return None if value is None else codec.loads(value)


def put_meta(connection: Connection, name: str, value: object) -> None:
    """Write a value."""
    run(connection, _PUT_META, {"name": name, "value": codec.dump_bytes(value)})
