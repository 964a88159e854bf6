"""How tables are made of the structs of their rows, and those that every module uses.

A change of a table needs a revision in `migrations`.

Times are ms since 1970 unless a comment says otherwise. Columns of the type `AnyText` hold text
that clients or the cloud choose: it may contain what a database refuses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeDecorator, TypeEngine

from proxy.translate import codec

#: NUL, which PostgreSQL refuses, surrogates, which no UTF-8 has, and the escape character itself.
_REFUSED = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")


class AnyText(TypeDecorator[str]):
    """Text with any characters, compared and sorted by code point."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return `TEXT`, in PostgreSQL with the collation that SQLite has."""
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(Text(collation=collation))

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        """Return the text as it is stored."""
        return None if value is None else escaped(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:
        """Return the text as it was."""
        if value is None or "\x1a" not in value:
            return value
        return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)


class JsonText(TypeDecorator[Any]):
    """A value as JSON: a number of any size, or a tuple of text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str:
        """Return the JSON."""
        return codec.dumps(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any:
        """Return the value."""
        found = None if value is None else codec.loads(value)
        return tuple(found) if isinstance(found, list) else found


def escaped(text: str) -> str:
    """Return the text in characters that every database accepts."""
    return _REFUSED.sub(lambda match: f"\x1a{ord(match[0]):04x}", text)


#: `BIGINT`, or in SQLite the `INTEGER` that a growing key must be.
KEY = BigInteger().with_variant(Integer, "sqlite")

#: Text of our own, which every database takes as it is.
PlainText: TypeAlias = str

#: The types of columns, by the annotations of the fields that they hold.
_TYPES: Mapping[str, type[TypeEngine[Any]]] = {
    "str": AnyText,
    "PlainText": Text,
    "int": BigInteger,
    "float": Double,
    "bool": Boolean,
    "bytes": LargeBinary,
    "Number": JsonText,
    "tuple[str, ...]": JsonText,
}

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def table_of(
    row: type,
    name: str,
    *parts: SchemaItem,
    keys: Sequence[str] = (),
    rowid: bool = True,
    **options: Any,
) -> Table:
    """Return the table of a struct: a column for each field, and other `parts`, which may have the
    column of a field. The primary key is `keys`; without `rowid` SQLite sorts the rows by it."""
    given = {part.name for part in parts if isinstance(part, Column)}
    columns = []
    for field, annotation in row.__annotations__.items():
        if field not in given:
            kind = annotation.removesuffix(" | None")
            columns.append(Column(field, _TYPES[kind], nullable=kind != annotation))
    if keys:
        parts = (PrimaryKeyConstraint(*keys), *parts)
    return Table(name, metadata, *columns, *parts, sqlite_with_rowid=rowid, **options)


#: Leases for work that only one process may do; what counts once has no holder, and of a writer of
#: batches the epoch is the last one's number. `expires` is by the clock of the database.
leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("address", Text, nullable=False, server_default=""),
)

#: Single values, as JSON: revisions, learned facts, marks of what was done once.
meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
