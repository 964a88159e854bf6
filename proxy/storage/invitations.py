"""Invitations: each becomes one token, once."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from proxy.storage.database import Repository, UnitRefusedError
from proxy.storage.members import StoredInvitation, StoredToken, add_token, invitations, members
from proxy.storage.tables import AnyText


class NotRedeemableError(UnitRefusedError):
    """Raised for an invitation that was used, has expired or was revoked."""


class TooManyError(UnitRefusedError):
    """Raised where a member has as many open invitations as may be."""


class InvitationRepository(Repository):
    """The open invitations of all members. Times are in ms since 1970."""

    async def open(self, at: int, member: str | None = None) -> list[StoredInvitation]:
        """Return the invitations that have not expired at a moment, of a member or of all, the
        oldest first."""
        i = invitations.c
        query = select(invitations).where(i.expires > at).order_by(i.created, i.id)
        if member is not None:
            query = query.where(i.member == member)
        return await self._records(StoredInvitation, query)

    async def find(self, id_: str) -> StoredInvitation | None:
        """Return an invitation, also one that has expired."""
        asked = bindparam("i", type_=AnyText)  # a client may ask with any text
        return await self._record(
            StoredInvitation, select(invitations).where(invitations.c.id == asked), {"i": id_}
        )

    async def add(self, invitation: StoredInvitation, *, limit: int) -> None:
        """Write an invitation, and delete those that have expired. Raises `TooManyError` if its
        member has `limit` open ones."""
        i = invitations.c

        def work(connection: Connection) -> None:
            connection.execute(delete(invitations).where(i.expires <= invitation.created))
            mine = select(func.count()).where(i.member == invitation.member)
            if connection.execute(mine).scalar_one() >= limit:
                raise TooManyError("too many open invitations")
            connection.execute(insert(invitations), _values(invitation))

        await self.database.write(work)

    async def redeem(self, invitation: StoredInvitation, token: StoredToken) -> None:
        """Write a token instead of an invitation; of several calls at once one succeeds.

        Raises `NotRedeemableError` if the invitation is gone, had expired when the token was
        created, or its member was removed.
        """
        i = invitations.c

        def work(connection: Connection) -> None:
            mine = (i.id == invitation.id, i.digest == invitation.digest, i.expires > token.created)
            there = select(members.c.key).where(
                members.c.name == invitation.member, ~members.c.removed
            )
            if not connection.execute(delete(invitations).where(*mine)).rowcount:
                raise NotRedeemableError("the invitation is not open")
            if connection.execute(there).first() is None:
                raise NotRedeemableError("the member was removed")
            add_token(connection, token)

        await self.database.write(work)

    async def remove(self, id_: str) -> bool:
        """Delete an invitation; return whether there was one."""

        def work(connection: Connection) -> bool:
            return bool(
                connection.execute(delete(invitations).where(invitations.c.id == id_)).rowcount
            )

        return await self.database.write(work)


def _values(invitation: StoredInvitation) -> dict[str, object]:
    return {name: getattr(invitation, name) for name in invitation.__struct_fields__}
