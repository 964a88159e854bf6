"""The last uses of tokens: in memory at once, in the database a little later."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from proxy.members.tokens import Token, Use
from proxy.runtime import clock
from proxy.storage.members import MemberRepository, StoredToken

#: Minimum milliseconds between two writes of a token's last use.
USE_INTERVAL = 60_000


class TokenUses:
    """When and from where tokens were used last; without a repository in memory only."""

    def __init__(self, repository: MemberRepository | None) -> None:
        self._repository = repository
        self._uses: dict[str, Use] = {}
        self._written: dict[str, int] = {}

    def last(self, token: Token) -> Use | None:
        """Return the last use of a token, `None` if it never was used."""
        return self._uses.get(token.id)

    def note(self, token: Token, address: str) -> None:
        """Note a use of a token; it is written at most once in `USE_INTERVAL`."""
        self._uses[token.id] = Use(clock.now(), address)

    def forget(self, token: Token) -> None:
        """Forget the uses of a token."""
        self._uses.pop(token.id, None)
        self._written.pop(token.id, None)

    def replace(self, rows: Iterable[StoredToken]) -> None:
        """Replace the uses by those of these rows, of all tokens; newer ones stay."""
        known = set()
        for row in rows:
            known.add(row.id)
            ours = self._uses.get(row.id)
            if row.used_at is not None and (ours is None or ours.at < row.used_at):
                self._uses[row.id] = Use(row.used_at, row.used_from or "")
                self._written[row.id] = row.used_at
        self._uses = {id_: use for id_, use in self._uses.items() if id_ in known}
        self._written = {id_: at for id_, at in self._written.items() if id_ in known}

    async def write(self, known: Collection[str], *, every: bool = False) -> None:
        """Write the uses of the tokens with `known` ids that are due, or all. Raises
        `StorageError`."""
        due = {
            id_: use
            for id_, use in self._uses.items()
            if use.at > self._written.get(id_, 0) + (0 if every else USE_INTERVAL) and id_ in known
        }
        if due and self._repository is not None:
            await self._repository.put_uses(due)
            self._written.update((id_, use.at) for id_, use in due.items())
