"""Members' own files and settings. A folder is a row whose path ends with a slash."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    func,
    select,
    update,
)

from proxy.storage.database import Database
from proxy.storage.statements import Upsert
from proxy.storage.tables import userdata

T = TypeVar("T")

#: What a file or a folder counts for at least, in bytes.
BLOCK = 4096
#: The folder of a member, which is there with the first write.
ROOT = "/"

_COLUMNS = [column for column in userdata.c if column.name != "data"]
_PUT = Upsert(userdata, ["member", "path"], ["data", "size", "created", "modified"])
_ADD = Upsert(userdata, ["member", "path"])
_TAKEN = case((userdata.c.size < BLOCK, BLOCK), else_=userdata.c.size)


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A file or folder, without its content; `size` is in bytes, times are seconds since 1970."""

    member: str
    path: str
    size: int
    created: float
    modified: float


class UserDataUnit:
    """The files of one member within one unit of work."""

    def __init__(self, connection: Connection, member: str) -> None:
        self._connection = connection
        self._member = member

    def lock(self, at: float) -> None:
        """Let no other unit change the member's files before this one ends."""
        self.add_folders([ROOT], at)
        self._connection.execute(self._rows(userdata.c.path == ROOT).with_for_update())

    def stored(self) -> int:
        """The bytes that all files and folders count for."""
        mine = (userdata.c.member == self._member, userdata.c.path != ROOT)
        query = select(func.coalesce(func.sum(_TAKEN), 0)).where(*mine)
        return int(self._connection.execute(query).scalar_one())

    def get(self, paths: Iterable[str]) -> dict[str, StoredEntry]:
        """The files and folders at those paths where there is one."""
        found = self._connection.execute(self._rows(userdata.c.path.in_(list(paths))))
        return {row.path: _entry(row) for row in found}

    def read(self, path: str) -> tuple[StoredEntry, bytes] | None:
        """A file with its content."""
        query = self._rows(userdata.c.path == path).add_columns(userdata.c.data)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else (_entry(row), row.data)

    def below(self, folder: str) -> list[StoredEntry]:
        """All files and folders below a folder (its path with the slash), by path."""
        below = userdata.c.path != ROOT
        if folder != ROOT:
            below = (userdata.c.path > folder) & (userdata.c.path < f"{folder[:-1]}0")
        query = self._rows(below).order_by(userdata.c.path)
        return [_entry(row) for row in self._connection.execute(query)]

    def put(self, path: str, data: bytes, *, created: float, modified: float) -> StoredEntry:
        """Write a file instead of what is there."""
        entry = StoredEntry(self._member, path, len(data), created, modified)
        self._connection.execute(_PUT(self._connection), _values(entry, data))
        return entry

    def add(self, path: str, data: bytes, *, created: float, modified: float) -> None:
        """Write a file unless there is one."""
        entry = StoredEntry(self._member, path, len(data), created, modified)
        self._connection.execute(_ADD(self._connection), _values(entry, data))

    def add_folders(self, paths: Iterable[str], at: float) -> None:
        """Make folders that are not there."""
        rows = [_values(StoredEntry(self._member, path, 0, at, at), b"") for path in paths]
        if rows:
            self._connection.execute(_ADD(self._connection), rows)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._connection.execute(delete(userdata).where(self._at(path)))

    def rename(self, path: str, target: str, at: float) -> None:
        """Give a file or folder a path at which there is nothing."""
        changes = {"path": target, "created": at}
        self._connection.execute(update(userdata).where(self._at(path)).values(changes))

    def _at(self, path: str) -> ColumnElement[bool]:
        return and_(userdata.c.member == self._member, userdata.c.path == path)

    def _rows(self, where: ColumnElement[bool]) -> Select[tuple[object, ...]]:
        return select(*_COLUMNS).where(userdata.c.member == self._member, where)


class UserDataRepository:
    """The files of all members, in units of work."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, member: str, work: Callable[[UserDataUnit], T]) -> T:
        """Run a unit that only reads. Raises `StorageError`."""
        return await self._database.read(lambda connection: work(UserDataUnit(connection, member)))

    async def write(self, member: str, work: Callable[[UserDataUnit], T]) -> T:
        """Run a unit that writes; what it raises is raised here. Raises `StorageError`."""
        return await self._database.write(lambda connection: work(UserDataUnit(connection, member)))


def _entry(row: Row[tuple[object, ...]]) -> StoredEntry:
    return StoredEntry(row.member, row.path, row.size, row.created, row.modified)


def _values(entry: StoredEntry, data: bytes) -> dict[str, object]:
    return {
        "member": entry.member,
        "path": entry.path,
        "size": entry.size,
        "created": entry.created,
        "modified": entry.modified,
        "data": data,
    }
