"""Invitations: a code that becomes a token of a member, once.

A code is `cci_`, an id of 8 letters, and a secret of 32 letters with 160 random bits. Its SHA-256
is stored. It gives access to nothing: it can only be exchanged for a token, which removes it in
the same transaction.
"""

from __future__ import annotations

import hmac
import re

from msgspec import Struct

from proxy import clock
from proxy.members import tokens
from proxy.members.directory import Access, Directory
from proxy.members.member import DirectoryError, UnknownTokenError, seconds
from proxy.storage.invitations import InvitationRepository, NotRedeemableError, TooManyError
from proxy.storage.members import StoredInvitation

PREFIX = "cci_"

#: Open invitations of a member, and the longest time (s) that one is valid.
MAX_OPEN, MAX_LIFETIME = 5, 30 * 86_400

_SHAPE = re.compile(r"cci_([a-z2-7]{8})[a-z2-7]{32}")


class InvalidInvitationError(DirectoryError):
    """Raised for a code that is not that of an open invitation."""


class NewInvitation(Struct, forbid_unknown_fields=True):
    """An invitation to make. `expires` is a time from now such as `7d`."""

    member: str
    expires: str = "7d"


class Invitations:
    """The invitations of all members."""

    def __init__(self, repository: InvitationRepository, directory: Directory) -> None:
        self._repository = repository
        self._directory = directory

    async def make(self, wanted: NewInvitation, inviter: str) -> tuple[str, StoredInvitation]:
        """Return a new code of an inviter for a member, and what is stored of it.

        Raises `DirectoryError` for an unknown or disabled member, a time that is too long, and too
        many open invitations.
        """
        member = self._directory.find(wanted.member)
        lifetime = seconds(wanted.expires)
        if lifetime > MAX_LIFETIME:
            raise DirectoryError("An invitation is valid for at most 30d.")
        if member.disabled:
            raise DirectoryError(f"The member {member.name} is disabled: enable it first.")
        now = clock.now()
        id_, code = tokens.secret_of(PREFIX)
        digest, expires = tokens.digest(code), now + round(lifetime * 1000)
        invitation = StoredInvitation(id_, member.name, inviter, digest, now, expires)
        try:
            await self._repository.add(invitation, limit=MAX_OPEN)
        except TooManyError:
            raise DirectoryError(
                f"The member {member.name} has {MAX_OPEN} open invitations, which is the maximum: "
                "revoke one first."
            ) from None
        return code, invitation

    async def open(self, member: str | None = None) -> list[StoredInvitation]:
        """Return the open invitations of a member, or of all. Raises `StorageError`."""
        return await self._repository.open(clock.now(), member)

    async def revoke(self, id_: str) -> StoredInvitation:
        """Revoke an invitation. Raises `UnknownTokenError`."""
        invitation = await self._repository.find(id_)
        if invitation is None or not await self._repository.remove(id_):
            raise UnknownTokenError("There is no such invitation; it may have been used.")
        return invitation

    async def look(self, code: str) -> StoredInvitation:
        """Return the invitation of a code, which stays open. Raises `InvalidInvitationError`."""
        shape = _SHAPE.fullmatch(code)
        invitation = None if shape is None else await self._repository.find(shape[1])
        known = "" if invitation is None else invitation.digest
        if not hmac.compare_digest(tokens.digest(code), known) or invitation is None:
            raise InvalidInvitationError("This invitation does not exist.")
        if invitation.expires <= clock.now():
            raise InvalidInvitationError("This invitation has expired.")
        await self._directory.refresh()
        if self._directory.get(invitation.member).disabled:
            raise InvalidInvitationError("The member is disabled.")
        return invitation

    async def accept(self, code: str) -> tuple[str, Access]:
        """Exchange a code for a token; return the token and its access.

        Raises `InvalidInvitationError`, also for the second of two who use the same code.
        """
        invitation, now = await self.look(code), clock.now()
        text, token = tokens.make(invitation.member, note="Invitation", created=now, expires=None)
        try:
            await self._repository.redeem(invitation, token)
        except NotRedeemableError as error:
            raise InvalidInvitationError(str(error)) from None
        await self._directory.refresh()
        access = self._directory.access(text)
        if access is None:
            raise InvalidInvitationError("The member has been disabled.")
        return text, access


def shown(invitation: StoredInvitation) -> str:
    """Return the name of an invitation in logs and in the interface."""
    return f"{PREFIX}{invitation.id}…"
