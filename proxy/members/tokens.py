"""Tokens and browser sessions: their format, and what is stored of them.

A token is `ccp_`, an id of 8 letters, and a secret of 32 letters with 160 random bits, all in lower
case base32, so that it needs no escaping in headers and URLs. Its SHA-256 is stored. Slow hashes
protect passwords, which can be guessed; 160 random bits cannot be, and a slow hash would cost every
request.

The uses of tokens are in memory at once, and in the database a little later.

A session stands for a token, in browsers that have signed in. Its id is a secret of 256 bits in a
cookie; its SHA-256 is stored. It ends with its token, after `SESSION_LIFETIME`, and when the member
signs out.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.runtime import clock, randomness
from proxy.storage.members import MemberRepository, StoredSession, StoredToken

PREFIX = "ccp_"

_ID_BYTES = 5
_SECRET_BYTES = 20
_ID_LENGTH = 8

#: Milliseconds after which a session ends.
SESSION_LIFETIME = 30 * 24 * 3600 * 1000
#: Maximum number of sessions of one token; the oldest is removed first.
MAX_SESSIONS = 50

_SHAPE = re.compile(r"ccp_[a-z2-7]{8}[a-z2-7]{32}")
_NOBODYS_DIGEST = hashlib.sha256(b"").hexdigest()


class Token(StoredToken, frozen=True):
    """What is stored of a token.

    One without a digest stands for sign-ins elsewhere, at the issuer that its note names: sessions
    belong to it, and it can be revoked, but nobody can send it.
    """

    @property
    def shown(self) -> str:
        """The name of the token in logs and in the interface."""
        return shown_id(self.id)

    @property
    def stands_for_sign_in(self) -> bool:
        """Whether it stands for sign-ins elsewhere."""
        return not self.digest

    def expired(self, now: int) -> bool:
        """Return whether the token has expired at `now` (ms)."""
        return self.expires is not None and self.expires <= now


class Use(NamedTuple):
    """The time (ms) and the address of a token's last use."""

    at: int
    address: str


def make(member: str, *, note: str = "", created: int, expires: int | None) -> tuple[str, Token]:
    """Return a new token, and what is stored of it."""
    id_, text = secret_of(PREFIX)
    return text, Token(id_, member, digest(text), note, created, expires)


def secret_of(prefix: str) -> tuple[str, str]:
    """Return a new id, and a secret text that begins with the prefix and the id."""
    id_ = _letters(_ID_BYTES)
    return id_, f"{prefix}{id_}{_letters(_SECRET_BYTES)}"


def shown_id(id_: str) -> str:
    """Return a token by its id as it is shown, an empty text for none."""
    return f"{PREFIX}{id_}…" if id_ else ""


def is_token(value: object) -> bool:
    """Return whether a value looks like a token."""
    return isinstance(value, str) and _SHAPE.fullmatch(value) is not None


def id_of(text: str) -> str | None:
    """Return the id of a token, `None` if the text does not look like one."""
    start = len(PREFIX)
    return text[start : start + _ID_LENGTH] if _SHAPE.fullmatch(text) else None


def matches(text: str, token: Token | None) -> bool:
    """Return whether `text` is the token; takes the same time if `token` is `None`."""
    expected = _NOBODYS_DIGEST if token is None else token.digest
    return hmac.compare_digest(digest(text), expected) and token is not None


def id_prefix(text: str) -> str:
    """Return the beginning of an id from what people type: `ccp_ab12`, `ab12`, `ccp_ab12cd34…`, or
    a whole token."""
    return text.strip().removesuffix("…").removeprefix(PREFIX)[:_ID_LENGTH].lower()


def _letters(count: int) -> str:
    return base64.b32encode(randomness.token_bytes(count)).decode().lower()


def digest(text: str) -> str:
    """Return the SHA-256 of a token or of the secret id of a session."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(eq=False, repr=False)
class Sessions:
    """The sessions, in memory and, with a repository, in the database.

    `_changing` is the lock of the directory, held while tokens are changed or read.
    """

    _repository: MemberRepository | None
    _changing: asyncio.Lock
    _sessions: dict[str, StoredSession] = field(init=False, default_factory=dict)

    def replace(self, sessions: Iterable[StoredSession]) -> None:
        """Replace all sessions."""
        self._sessions = {session.name: session for session in sessions}

    async def begin(self, token_id: str) -> str:
        """Create a session of a token. Return its secret id, for the cookie. Raises
        `StorageError`."""
        now, text = clock.now(), randomness.token_urlsafe(32)
        session = StoredSession(digest(text), token_id, now, now + SESSION_LIFETIME)
        async with self._changing:
            if self._repository is not None:
                await self._repository.begin_session(session, limit=MAX_SESSIONS)
                await self._repository.end_sessions(expired_at=now)
            self._sessions[session.name] = session
            names = [name for name, known in self._sessions.items() if known.token == token_id]
            for name in names[:-MAX_SESSIONS]:
                del self._sessions[name]
        return text

    def token_of(self, name: str) -> str | None:
        """Return the id of the token of a session, `None` if it is unknown or has ended. `name` is
        the `digest` of its secret id."""
        session = self._sessions.get(name)
        return session.token if session is not None and session.expires > clock.now() else None

    async def end(self, name: str) -> bool:
        """End a session by its `digest`, and return whether there was one. Raises
        `StorageError`."""
        async with self._changing:
            existed = self._sessions.pop(name, None) is not None
            if existed and self._repository is not None:
                await self._repository.end_sessions([name])
        return existed

    def retain(self, token_ids: Collection[str]) -> None:
        """Remove the sessions of all other tokens, as the database does itself."""
        self._sessions = {
            name: session for name, session in self._sessions.items() if session.token in token_ids
        }


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

    def record(self, token: Token, address: str) -> None:
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
