"""The members, tokens and identities that are known, in memory, and their rows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from itertools import chain, count

import msgspec
from msgspec import Struct

from proxy.members import tokens
from proxy.members.member import (
    LOCAL,
    Member,
    NameTakenError,
    UnknownMemberError,
    UnknownTokenError,
)
from proxy.members.tokens import Token
from proxy.storage.database import StorageError
from proxy.storage.members import StoredMember, StoredMembers, StoredToken


class Change(Struct, frozen=True):
    """Members and tokens that were added or changed, and those that were removed.

    The name of a removed member stays reserved.
    """

    members: Sequence[Member] = ()
    removed: Sequence[Member] = ()
    tokens: Sequence[Token] = ()
    revoked: Sequence[Token] = ()


class Roster:
    """Members by their names in small letters, and tokens by their ids.

    All data of a member are kept by its name. So the name of a removed member is reserved, and so
    is `LOCAL`, whose data are from before there were members: only `restore` gives them away.
    """

    def __init__(
        self,
        members: Iterable[Member] = (),
        removed: Mapping[str, str] | None = None,
        known_tokens: Iterable[Token] = (),
    ) -> None:
        self._members: dict[str, Member] = {}
        self._reserved = {LOCAL: LOCAL, **(removed or {})}
        self._tokens: dict[str, Token] = {}
        self._identities: dict[str, str] = {}
        #: Tokens that stand for sign-ins elsewhere, by member and issuer.
        self._sign_ins: dict[tuple[str, str], Token] = {}
        self.apply(Change(members=tuple(members), tokens=tuple(known_tokens)))

    def apply(self, change: Change) -> None:
        """Apply a change."""
        for member in (*change.members, *change.removed):
            previous = self._members.pop(member.name.lower(), None)
            for identity in previous.identities if previous is not None else ():
                self._identities.pop(identity, None)
        for member in change.members:
            key = member.name.lower()
            self._members[key] = member
            self._reserved.pop(key, None)
            self._identities.update(dict.fromkeys(member.identities, key))
        self._reserved.update({member.name.lower(): member.name for member in change.removed})
        for token in change.revoked:
            self._tokens.pop(token.id, None)
            if token.stands_for_sign_in:
                self._sign_ins.pop((token.member, token.note), None)
        for token in change.tokens:
            self._tokens[token.id] = token
            if token.stands_for_sign_in:
                self._sign_ins[token.member, token.note] = token

    # --- members ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._members)

    def members(self) -> list[Member]:
        """Return all members, by name."""
        return [self._members[key] for key in sorted(self._members)]

    def get(self, name: str) -> Member | None:
        """Return the member of exactly this name."""
        member = self._members.get(name.lower())
        return member if member is not None and member.name == name else None

    def find(self, name: str) -> Member:
        """Return the member of a name, however it is capitalised. Raises `UnknownMemberError`."""
        try:
            return self._members[name.lower()]
        except KeyError:
            raise UnknownMemberError(
                f"The member {quoted(name)} does not exist: see comfy-cloud-proxy member list."
            ) from None

    def of_identity(self, identity: str) -> Member | None:
        """Return the member with an identity."""
        return self._members.get(self._identities.get(identity, ""))

    def name_to_add(self, name: str, *, restore: bool) -> str:
        """Return the name of a new member; with `restore` a reserved one.

        Raises `NameTakenError`, and `UnknownMemberError` if there is none to restore.
        """
        key = name.lower()
        if key in self._members:
            raise NameTakenError(
                f"The member {self._members[key].name} exists: choose another name."
            )
        if key in self._reserved and not restore:
            reason = "has the history and files from before there were members"
            if key != LOCAL:
                reason = "was a member, and its history and files still exist"
            raise NameTakenError(
                f"{self._reserved[key]} {reason}: choose another name, or use --restore."
            )
        if restore and key not in self._reserved:
            raise UnknownMemberError(
                f"No member {quoted(name)} was removed: check the name, or add a new member."
            )
        return self._reserved.get(key, name)

    def free_name(self, name: str, taken: Container[str] = ()) -> str:
        """Return a name that nobody has or had and that is not `taken` (in small letters): this
        one, or with a number after it."""
        numbered = (f"{name}-{number}" for number in count(2))
        return next(
            free
            for free in chain([name], numbered)
            if not any(free.lower() in names for names in (self._members, self._reserved, taken))
        )

    def check_identities(self, member: Member) -> None:
        """Raise `NameTakenError` for an identity that another member has."""
        for identity in member.identities:
            other = self.of_identity(identity)
            if other is not None and other.name != member.name:
                raise NameTakenError(
                    f"The member {other.name} has the identity {quoted(identity)}: remove it "
                    "there first."
                )

    # --- tokens ----------------------------------------------------------------------------

    def token(self, token_id: str) -> Token | None:
        """Return the token with an id."""
        return self._tokens.get(token_id)

    @property
    def token_ids(self) -> Collection[str]:
        """The ids of all tokens."""
        return self._tokens.keys()

    def any_expires(self, after: int, until: int) -> bool:
        """Return whether a token's time ends between two moments (ms)."""
        return any(after < (token.expires or 0) <= until for token in self._tokens.values())

    def tokens(self, name: str | None = None) -> list[Token]:
        """Return all tokens, or those of a member, the oldest first."""
        found = [token for token in self._tokens.values() if name in (None, token.member)]
        return sorted(found, key=lambda token: (token.created, token.id))

    def sign_in_token(self, name: str, issuer: str) -> Token | None:
        """Return the token that stands for sign-ins of a member at an issuer."""
        return self._sign_ins.get((name, issuer))

    def sign_ins_lost(self, previous: Member, changed: Member) -> list[Token]:
        """Return the tokens that stand for sign-ins by identities that a member loses."""
        lost = set(previous.identities).difference(changed.identities)
        issuers = {identity.partition(" ")[0] for identity in lost}
        found = [self.sign_in_token(previous.name, issuer) for issuer in sorted(issuers)]
        return [token for token in found if token is not None]

    def find_token(self, prefix: str) -> Token:
        """Return the one token whose id begins so. Raises `UnknownTokenError`."""
        start = tokens.id_prefix(prefix)
        found = [token for id_, token in self._tokens.items() if start and id_.startswith(start)]
        if len(found) == 1:
            return found[0]
        problem = "Several tokens begin" if found else "No token begins"
        shown = f"{tokens.PREFIX}{start}" if start.isalnum() else "this"
        raise UnknownTokenError(f"{problem} with {shown}: see comfy-cloud-proxy token list.")


def quoted(name: str) -> str:
    """Return a name as an error shows it."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"“{text[:60]}”"


_MEMBER = msgspec.json.Decoder(Member)


def rows_of(change: Change) -> list[StoredMember]:
    """Return the rows of the members that a change writes or removes."""
    written = [_row(member, False, msgspec.json.encode(member)) for member in change.members]
    return written + [_row(member, True, b"{}") for member in change.removed]


def roster_of(stored: StoredMembers) -> Roster:
    """Return the members and tokens of these rows. Raises `StorageError`."""
    try:
        members = [_MEMBER.decode(row.data) for row in stored.members if not row.removed]
    except msgspec.DecodeError as error:
        raise StorageError(f"the database contains an invalid member: {error}") from error
    removed = {row.key: row.name for row in stored.members if row.removed}
    return Roster(members, removed, map(_token_of, stored.tokens))


def _row(member: Member, removed: bool, data: bytes) -> StoredMember:
    return StoredMember(member.name.lower(), member.name, removed, data)


def _token_of(row: StoredToken) -> Token:
    return Token(row.id, row.member, row.digest, row.note, row.created, row.expires)
