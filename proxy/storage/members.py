"""Members, their tokens and their sessions.

Each change makes the revision a higher one, so that another process sees with one cheap look that
there is something new, and a change that was decided on an older revision is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from proxy.storage.database import Database, StorageError
from proxy.storage.statements import Upsert, get_meta, put_meta
from proxy.storage.tables import members, sessions, tokens

_REVISION = "members_revision"


@dataclass(frozen=True, slots=True)
class StoredMember:
    """A member by its name in small letters; `data` is JSON. A removed one keeps its name."""

    key: str
    name: str
    removed: bool
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token by its id, and its last use. Times are in ms since 1970."""

    id: str
    member: str
    digest: str
    note: str
    created: int
    expires: int | None
    used_at: int | None = None
    used_from: str | None = None


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session by the SHA-256 of its secret; `token` is an id."""

    name: str
    token: str
    created: int
    expires: int


@dataclass(frozen=True, slots=True)
class StoredMembers:
    """All that is known at a revision."""

    revision: int
    members: list[StoredMember] = field(default_factory=list)
    tokens: list[StoredToken] = field(default_factory=list)
    sessions: list[StoredSession] = field(default_factory=list)


class StaleError(StorageError):
    """Another process has changed the members since; read them again."""


_PUT_MEMBER = Upsert(members, ["key"], ["name", "removed", "data"])
_TOKEN_COLUMNS = ["member", "digest", "note", "created", "expires", "used_at", "used_from"]
_PUT_TOKEN = Upsert(tokens, ["id"], _TOKEN_COLUMNS)
_USED = (
    update(tokens)
    .where(tokens.c.id == bindparam("token"))
    .values(used_at=bindparam("at"), used_from=bindparam("address"))
)


class MemberRepository:
    """The members of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def revision(self) -> int:
        """The number of the newest change. Raises `StorageError`."""
        return await self._database.read(_revision)

    async def any(self) -> bool:
        """Whether there is a member. Raises `StorageError`."""
        query = select(members.c.key).where(~members.c.removed).limit(1)
        found = await self._database.read(lambda connection: connection.execute(query).first())
        return found is not None

    async def load(self) -> StoredMembers:
        """All members, tokens and sessions. Raises `StorageError`."""

        def work(connection: Connection) -> StoredMembers:
            return StoredMembers(
                _revision(connection),
                [StoredMember(*row) for row in connection.execute(select(members))],
                [StoredToken(*row) for row in connection.execute(select(tokens))],
                [StoredSession(*row) for row in connection.execute(select(sessions))],
            )

        return await self._database.read(work)

    async def change(
        self,
        revision: int | None,
        *,
        members: Sequence[StoredMember] = (),
        tokens: Sequence[StoredToken] = (),
        revoked: Collection[str] = (),
    ) -> int:
        """Write members and tokens, and delete revoked tokens with their sessions; all or nothing.

        Returns the new revision. Raises `StaleError` if `revision` (`None` for any) is not the
        newest, `StorageError`.
        """

        def work(connection: Connection) -> int:
            newest = _revision(connection, lock=True)
            if revision not in (None, newest):
                raise StaleError("the members were changed by another process")
            put_members(connection, members, tokens)
            _revoke(connection, revoked)
            return _advance(connection, newest)

        return await self._database.write(work)

    async def note_uses(self, uses: Mapping[str, tuple[int, str]]) -> None:
        """Write when (ms) and from where tokens were used last, by their ids; the revision stays.

        Raises `StorageError`.
        """
        values: list[dict[str, object]] = [
            {"token": id_, "at": at, "address": address}
            for id_, (at, address) in sorted(uses.items())
        ]
        if values:
            await self._database.write(partial(_note_uses, values))

    async def begin_session(self, session: StoredSession, *, most: int) -> None:
        """Keep a session, and of its token's no more than the newest `most`. Raises
        `StorageError`."""

        def work(connection: Connection) -> None:
            put_session(connection, session)
            old = (
                select(sessions.c.name)
                .where(sessions.c.token == session.token)
                .order_by(sessions.c.created.desc(), sessions.c.name)
                .offset(most)
            )
            gone = list(connection.execute(old).scalars())
            connection.execute(delete(sessions).where(sessions.c.name.in_(gone)))
            _advance(connection, _revision(connection, lock=True))

        await self._database.write(work)

    async def end_sessions(self, names: Collection[str] = (), *, expired_at: int = 0) -> None:
        """Delete sessions, and those whose time was over at a moment (ms). Raises
        `StorageError`."""

        def work(connection: Connection) -> None:
            gone = sessions.c.name.in_(sorted(names)) | (sessions.c.expires <= expired_at)
            if connection.execute(delete(sessions).where(gone)).rowcount:
                _advance(connection, _revision(connection, lock=True))

        await self._database.write(work)


def _note_uses(uses: list[dict[str, object]], connection: Connection) -> None:
    connection.execute(_USED, uses)


def put_members(
    connection: Connection, new: Sequence[StoredMember], new_tokens: Sequence[StoredToken]
) -> None:
    """Write members and tokens, in the caller's unit."""
    if new:
        connection.execute(_PUT_MEMBER(connection), [asdict(one) for one in new])
    if new_tokens:
        connection.execute(_PUT_TOKEN(connection), [asdict(one) for one in new_tokens])


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
