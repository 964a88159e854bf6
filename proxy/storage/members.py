"""Members, their tokens and their sessions, and the files and settings that they keep here.

Each change of members increases the revision, so that another process notices changes with one
cheap query, and a change that was decided on an older revision is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Index,
    LargeBinary,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from proxy.storage.database import Repository, UnitRefusedError
from proxy.storage.statements import Upsert, get_meta, put_meta, run_many
from proxy.storage.tables import PlainText, table_of
from proxy.storage.webhooks import remove_webhooks

#: What a file or a folder counts for at least, in bytes.
BLOCK = 4096
#: The folder of a member, which is there with the first write.
ROOT = "/"

_REVISION = "members_revision"


class StoredMember(Struct, frozen=True):
    """A member by its name in small letters; `data` is JSON. A removed one keeps its name."""

    key: str
    name: str
    removed: bool
    data: bytes


class StoredToken(Struct, frozen=True):
    """A token by its id, and its last use. Times are in ms since 1970."""

    id: PlainText
    member: str
    digest: PlainText
    note: str
    created: int
    expires: int | None
    used_at: int | None = None
    used_from: str | None = None


class StoredSession(Struct, frozen=True):
    """A session by the SHA-256 of its secret; `token` is an id."""

    name: PlainText
    token: PlainText
    created: int
    expires: int


members = table_of(StoredMember, "members", keys=("key",))
tokens = table_of(StoredToken, "tokens", Index("ix_tokens_member", "member"), keys=("id",))
sessions = table_of(StoredSession, "sessions", Index("ix_sessions_token", "token"), keys=("name",))


class StoredMembers(Struct, frozen=True):
    """All that is known at a revision."""

    revision: int
    members: list[StoredMember]
    tokens: list[StoredToken]
    sessions: list[StoredSession]


class StaleError(UnitRefusedError):
    """Raised when another process has changed the members since; read them again."""


_PUT_MEMBER = Upsert(members)
_PUT_TOKEN = Upsert(tokens)
_USED = (
    update(tokens)
    .where(tokens.c.id == bindparam("token"))
    .values(used_at=bindparam("at"), used_from=bindparam("address"))
)


class MemberRepository(Repository):
    """The members of a database."""

    async def revision(self) -> int:
        """Return the number of the newest change."""
        return await self.database.read(_revision)

    async def any(self) -> bool:
        """Return whether there is a member."""
        query = select(members.c.key).where(~members.c.removed).limit(1)
        return await self._first(query) is not None

    async def load(self) -> StoredMembers:
        """Return all members, tokens and sessions."""

        def work(connection: Connection) -> StoredMembers:
            return StoredMembers(
                _revision(connection),
                [StoredMember(*row) for row in connection.execute(select(members))],
                [StoredToken(*row) for row in connection.execute(select(tokens))],
                [StoredSession(*row) for row in connection.execute(select(sessions))],
            )

        return await self.database.read(work)

    async def change(
        self,
        revision: int | None,
        *,
        members: Sequence[StoredMember] = (),
        tokens: Sequence[StoredToken] = (),
        revoked: Collection[str] = (),
    ) -> int:
        """Write members and tokens, and delete revoked tokens with their sessions and the
        webhooks of removed members; all or nothing.

        Returns the new revision. Raises `StaleError` if `revision` (`None` for any) is not the
        newest.
        """

        def work(connection: Connection) -> int:
            newest = _revision(connection, lock=True)
            if revision not in (None, newest):
                raise StaleError("the members were changed by another process")
            put_members(connection, members, tokens)
            _revoke(connection, revoked)
            gone = [member.name for member in members if member.removed]
            if gone:
                remove_webhooks(connection, gone)
            return _advance(connection, newest)

        return await self.database.write(work)

    async def put_uses(self, uses: Mapping[str, tuple[int, str]]) -> None:
        """Write when (ms) and from where tokens were used last, by their ids; the revision
        stays."""
        values = [
            {"token": id_, "at": at, "address": address}
            for id_, (at, address) in sorted(uses.items())
        ]
        if values:
            await self.database.write(lambda connection: connection.execute(_USED, values))

    async def begin_session(self, session: StoredSession, *, limit: int) -> None:
        """Keep a session, and of its token's no more than the newest `limit`."""

        def work(connection: Connection) -> None:
            put_session(connection, session)
            old = (
                select(sessions.c.name)
                .where(sessions.c.token == session.token)
                .order_by(sessions.c.created.desc(), sessions.c.name)
                .offset(limit)
            )
            gone = list(connection.execute(old).scalars())
            connection.execute(delete(sessions).where(sessions.c.name.in_(gone)))
            _advance(connection, _revision(connection, lock=True))

        await self.database.write(work)

    async def end_sessions(self, names: Collection[str] = (), *, expired_at: int = 0) -> None:
        """Delete sessions, and those whose time was over at a moment (ms)."""

        def work(connection: Connection) -> None:
            gone = sessions.c.name.in_(sorted(names)) | (sessions.c.expires <= expired_at)
            if connection.execute(delete(sessions).where(gone)).rowcount:
                _advance(connection, _revision(connection, lock=True))

        await self.database.write(work)


def put_members(
    connection: Connection, new: Sequence[StoredMember], new_tokens: Sequence[StoredToken]
) -> None:
    """Write members and tokens, in the caller's unit."""
    run_many(connection, _PUT_MEMBER, [asdict(member) for member in new])
    run_many(connection, _PUT_TOKEN, [asdict(token) for token in new_tokens])


def add_token(connection: Connection, token: StoredToken) -> None:
    """Write a new token as a change of the members, in the caller's unit."""
    newest = _revision(connection, lock=True)
    connection.execute(insert(tokens), asdict(token))
    _advance(connection, newest)


def put_session(connection: Connection, session: StoredSession) -> None:
    """Write a session, in the caller's unit."""
    connection.execute(insert(sessions), asdict(session))


def _revoke(connection: Connection, ids: Collection[str]) -> None:
    if ids:
        gone = sorted(ids)
        connection.execute(delete(tokens).where(tokens.c.id.in_(gone)))
        connection.execute(delete(sessions).where(sessions.c.token.in_(gone)))


def _revision(connection: Connection, *, lock: bool = False) -> int:
    value = get_meta(connection, _REVISION, lock=lock)
    return 0 if value is None else int(value)


def _advance(connection: Connection, revision: int) -> int:
    put_meta(connection, _REVISION, revision + 1)
    return revision + 1


# --- files and settings --------------------------------------------------------------------


class StoredEntry(Struct, frozen=True):
    """A file or folder (its path ends with a slash), without its content; `size` is in bytes, times
    are seconds since 1970."""

    member: str
    path: str
    size: int
    created: float
    modified: float


userdata = table_of(
    StoredEntry, "userdata", Column("data", LargeBinary, nullable=False), keys=("member", "path")
)
_PUT_FILE = Upsert(userdata)
_ADD_FILE = Upsert(userdata, how="keep")
_TAKEN = case((userdata.c.size < BLOCK, BLOCK), else_=userdata.c.size)
_ENTRY = [userdata.c[name] for name in StoredEntry.__struct_fields__]


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
        """Return the bytes that all files and folders count for."""
        mine = (userdata.c.member == self._member, userdata.c.path != ROOT)
        query = select(func.coalesce(func.sum(_TAKEN), 0)).where(*mine)
        return int(self._connection.execute(query).scalar_one())

    def get(self, paths: Iterable[str]) -> dict[str, StoredEntry]:
        """Return the files and folders that exist at these paths."""
        found = self._connection.execute(self._rows(userdata.c.path.in_(list(paths))))
        return {row.path: StoredEntry(*row) for row in found}

    def read(self, path: str) -> tuple[StoredEntry, bytes] | None:
        """Return a file with its content."""
        query = self._rows(userdata.c.path == path).add_columns(userdata.c.data)
        row = self._connection.execute(query).one_or_none()
        return None if row is None else (StoredEntry(*row[:-1]), row.data)

    def below(self, folder: str) -> list[StoredEntry]:
        """Return all files and folders below a folder (its path with the slash), by path."""
        below = userdata.c.path != ROOT
        if folder != ROOT:
            below = (userdata.c.path > folder) & (userdata.c.path < f"{folder[:-1]}0")
        query = self._rows(below).order_by(userdata.c.path)
        return [StoredEntry(*row) for row in self._connection.execute(query)]

    def put(
        self, path: str, data: bytes, *, created: float, modified: float, replace: bool = True
    ) -> StoredEntry:
        """Write a file, without `replace` unless there is one."""
        entry = StoredEntry(self._member, path, len(data), created, modified)
        statement = _PUT_FILE if replace else _ADD_FILE
        self._connection.execute(statement(self._connection), {**asdict(entry), "data": data})
        return entry

    def add_folders(self, paths: Iterable[str], at: float) -> None:
        """Make folders that are not there."""
        for path in paths:
            self.put(path, b"", created=at, modified=at, replace=False)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._connection.execute(delete(userdata).where(self._at(path)))

    def rename(self, path: str, target: str, at: float) -> None:
        """Give a file or folder a path at which there is nothing."""
        changes = {"path": target, "created": at}
        self._connection.execute(update(userdata).where(self._at(path)).values(changes))

    def _at(self, path: str) -> ColumnElement[bool]:
        return and_(userdata.c.member == self._member, userdata.c.path == path)

    def _rows(self, where: ColumnElement[bool]) -> Select[Any]:
        return select(*_ENTRY).where(userdata.c.member == self._member, where)
