"""The result of an authentication."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from proxy.members.directory import Directory


class Admission(NamedTuple):
    """An authenticated member, with the id of its token and, from a browser, the session's name.

    `shown` is how logs name the token. Without members there is no token.
    """

    member: str
    token: str | None = None
    session: str | None = None
    shown: str | None = None

    def holds(self, members: Directory) -> bool:
        """Return whether the member still has access."""
        if self.token is None:
            return not members.has_members
        if self.session is not None and members.sessions.token_of(self.session) is None:
            return False
        return members.access_by_id(self.token) is not None
