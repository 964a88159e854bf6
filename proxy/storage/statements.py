"""Statements that each database says in words of its own, and the single values of `meta`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Insert, Table, bindparam, case, select
from sqlalchemy.dialects import sqlite

from proxy.storage.tables import meta
from proxy.translate import codec

T = TypeVar("T")

#: Values of one statement.
CHUNK = 500


def chunks(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """The values in pieces that one statement takes."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


class Upsert:
    """An insert that replaces `columns` of a row that is there, in the words of each database.

    Where `how` is `add` their new values are added to the old ones, where it is `highest` the
    larger value of each stays, and where it is `next` the old one plus 1 or the new one,
    whichever is larger, stays and is returned. Without `columns` a row that is there stays as it
    is.
    """

    def __init__(
        self, table: Table, keys: Sequence[str], columns: Sequence[str] = (), *, how: str = "set"
    ) -> None:
        self._table, self._keys, self._columns, self._how = table, keys, columns, how
        self._made: dict[str, Insert] = {}

    def __call__(self, connection: Connection) -> Insert:
        """The statement for the connection's database."""
        name = connection.dialect.name
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Insert:
        statement: Any
        if name == "sqlite":
            statement = sqlite.insert(self._table)
        else:
            from sqlalchemy.dialects import postgresql

            statement = postgresql.insert(self._table)
        if not self._columns:
            statement = statement.on_conflict_do_nothing(index_elements=self._keys)
            # Otherwise SQLAlchemy forgets whether PostgreSQL has written the row.
            return cast(Insert, statement.execution_options(preserve_rowcount=True))
        new = {column: statement.excluded[column] for column in self._columns}
        if self._how == "add":
            new = {column: self._table.c[column] + value for column, value in new.items()}
        elif self._how == "highest":
            new = {column: _larger(self._table.c[column], value) for column, value in new.items()}
        elif self._how == "next":
            new = {column: _next(self._table.c[column], value) for column, value in new.items()}
        statement = statement.on_conflict_do_update(index_elements=self._keys, set_=new)
        if self._how == "next":
            statement = statement.returning(*(self._table.c[column] for column in self._columns))
        return cast(Insert, statement)


def _next(old: Any, new: Any) -> Any:
    return case((old >= new, old + 1), else_=new)


def _larger(old: Any, new: Any) -> Any:
    return case((old >= new, old), else_=new)


_PUT_META = Upsert(meta, ["name"], ["value"])
_ADD_META = Upsert(meta, ["name"])
_GET_META = select(meta.c.value).where(meta.c.name == bindparam("meta"))
_LOCK_META = _GET_META.with_for_update()


def get_meta(connection: Connection, name: str, *, lock: bool = False) -> Any:
    """A value, `None` if there is none. With `lock` no other unit changes it before this ends."""
    if lock:
        connection.execute(_ADD_META(connection), {"name": name, "value": b"null"})
    query = _LOCK_META if lock else _GET_META
    value = connection.execute(query, {"meta": name}).scalar_one_or_none()
    return None if value is None else codec.loads(value)


def put_meta(connection: Connection, name: str, value: object) -> None:
    """Write a value."""
    connection.execute(_PUT_META(connection), {"name": name, "value": codec.dump_bytes(value)})
