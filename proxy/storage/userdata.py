"""The files and settings that members keep here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    and_,
    bindparam,
    delete,
    select,
    update,
)

from proxy.storage.statements import Upsert, run, run_many
from proxy.storage.tables import table_of

#: What a file or a folder counts for at least, in bytes.
BLOCK = 4096
#: The folder of a member, which is there with the first write.
ROOT = "/"
#: Maximum number of entries that are read or moved at once.
PAGE = 500


class StoredEntry(Struct, frozen=True):
    """A file or folder (its path ends with a slash), without its content; times are seconds since
    1970. `size` is in bytes, of `ROOT` what all files and folders of the member count for."""

    member: str
    path: str
    size: int
    created: float
    modified: float

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.path.endswith("/")

    @property
    def counted(self) -> int:
        """The bytes that it counts for."""
        return max(self.size, BLOCK)


userdata = table_of(
    StoredEntry, "userdata", Column("data", LargeBinary, nullable=False), keys=("member", "path")
)
_PUT_FILE = Upsert(userdata)
_ADD_FILE = Upsert(userdata, how="keep")
_ENTRY = [userdata.c[name] for name in StoredEntry.__struct_fields__]
_MINE = userdata.c.member == bindparam("m")
_PATH = userdata.c.path.type
_AT = and_(_MINE, userdata.c.path == bindparam("p", type_=_PATH))
_GET = select(*_ENTRY).where(_AT)
_READ = _GET.add_columns(userdata.c.data)
_LOCK = _GET.with_for_update()
_BELOW = (
    select(*_ENTRY)
    .where(
        _MINE,
        userdata.c.path > bindparam("after", type_=_PATH),
        userdata.c.path < bindparam("end", type_=_PATH),
        userdata.c.path != ROOT,
    )
    .order_by(userdata.c.path)
    .limit(bindparam("count", type_=BigInteger))
)
_COUNT = update(userdata).where(_AT).values(size=bindparam("bytes", type_=BigInteger))
_DROP = delete(userdata).where(_AT)
_RENAME = (
    update(userdata)
    .where(_AT)
    .values(path=bindparam("target", type_=_PATH), created=bindparam("at"))
)
#: Behind all paths: no text has this character.
_END = "\U0010ffff"


class UserDataUnit:
    """The files of one member within one unit of work.

    One that writes calls `lock` at its begin and `settle` at its end. `stored` are the bytes that
    all files and folders count for in between, `freed_later` those of what other units remove.
    """

    def __init__(self, connection: Connection, member: str) -> None:
        self._connection = connection
        self._member = member
        self._before = self.stored = self.freed_later = 0

    def lock(self, at: float) -> None:
        """Let no other unit change the member's files before this one ends."""
        self._add([ROOT], at)
        row = run(self._connection, _LOCK, self._key(ROOT)).one()
        self._before = self.stored = row.size

    def settle(self) -> None:
        """Write what is stored now."""
        if self.stored != self._before:
            run(self._connection, _COUNT, {**self._key(ROOT), "bytes": self.stored})

    def get(self, paths: Iterable[str]) -> dict[str, StoredEntry]:
        """Return the files and folders that exist at these paths."""
        found = self._connection.execute(self._rows(userdata.c.path.in_(list(paths))))
        return {row.path: _entry_of(row) for row in found}

    def read(self, path: str) -> tuple[StoredEntry, bytes] | None:
        """Return a file with its content."""
        row = run(self._connection, _READ, self._key(path)).one_or_none()
        return None if row is None else (_entry_of(row[:-1]), row.data)

    def below(self, folder: str, after: str | None = None, count: int = PAGE) -> list[StoredEntry]:
        """Return files and folders below a folder (its path with the slash), by path: the first
        `count` of them, or of those after a path."""
        end = _END if folder == ROOT else f"{folder[:-1]}0"
        first = ("" if folder == ROOT else folder) if after is None else after
        values = {"m": self._member, "after": first, "end": end, "count": count}
        return [_entry_of(row) for row in run(self._connection, _BELOW, values)]

    def put(
        self,
        path: str,
        data: bytes,
        *,
        created: float,
        modified: float,
        previous: StoredEntry | None = None,
    ) -> StoredEntry:
        """Write a file, instead of the `previous` one that is there."""
        entry = StoredEntry(self._member, path, len(data), created, modified)
        run(self._connection, _PUT_FILE, {**asdict(entry), "data": data})
        self.stored += entry.counted - (0 if previous is None else previous.counted)
        return entry

    def add_folders(self, paths: Sequence[str], at: float) -> None:
        """Make folders, none of which is there."""
        self._add(paths, at)
        self.stored += BLOCK * len(paths)

    def remove(self, entries: Sequence[StoredEntry]) -> None:
        """Remove files and folders."""
        run_many(self._connection, _DROP, [self._key(entry.path) for entry in entries])
        self.stored -= sum(entry.counted for entry in entries)

    def rename(self, targets: Iterable[tuple[str, str]], at: float) -> None:
        """Give files and folders paths at which there is nothing."""
        rows = [{**self._key(path), "target": target, "at": at} for path, target in targets]
        run_many(self._connection, _RENAME, rows)

    def _add(self, folders: Sequence[str], at: float) -> None:
        rows = [StoredEntry(self._member, folder, 0, at, at) for folder in folders]
        run_many(self._connection, _ADD_FILE, [{**asdict(row), "data": b""} for row in rows])

    def _key(self, path: str) -> dict[str, str]:
        return {"m": self._member, "p": path}

    def _rows(self, where: ColumnElement[bool]) -> Select[Any]:
        return select(*_ENTRY).where(userdata.c.member == self._member, where)


def _entry_of(row: Sequence[Any]) -> StoredEntry:
    return StoredEntry(*row)
