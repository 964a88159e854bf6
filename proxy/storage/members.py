"""Members, their tokens and their sessions.

Each change of members increases the revision, so that another process notices changes with one
cheap query, and a change that was decided on an older revision is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import asdict
from sqlalchemy import (
    Connection,
    Index,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from proxy.storage.database import Repository, UnitRefusedError
from proxy.storage.statements import Upsert, get_meta, put_meta, run_many
from proxy.storage.tables import PlainText, table_of
from proxy.storage.webhooks import remove_webhooks

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
