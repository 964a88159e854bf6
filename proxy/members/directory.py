"""The members and their tokens, in memory and in the database.

Commands and the leader before may change the database while a server runs, so it checks for
changes a few times a second. A change is based on the current revision of the database,
and repeated if another process was faster.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from proxy.logging import FailureLines
from proxy.members import tokens
from proxy.members.marker import mark
from proxy.members.member import LOCAL, DirectoryError, Limits, Member, TooManyTokensError
from proxy.members.roster import Change, Roster, quoted, roster_of, rows_of
from proxy.members.tokens import Sessions, Token, TokenUses, Use
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.runtime.waits import stop
from proxy.storage.database import StorageError
from proxy.storage.members import MemberRepository, StaleError, StoredMembers

log = structlog.get_logger(__name__)

#: Seconds between two checks for changes by other processes.
INTERVAL = 0.25

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,38}[A-Za-z0-9_-])?", re.ASCII)

#: The one member of a proxy without members.
_ANYONE = Member(LOCAL, role="admin", limits=Limits(max_queued=None, stored_bytes=None))


class Access(msgspec.Struct, frozen=True):
    """A valid token and its member."""

    member: Member
    token: Token


class Directory:
    """The members and their tokens; without a repository in memory only.

    Without members everybody is the member `local`. As soon as a process has seen a member, this
    does not apply to it any more, so that removing the last member does not open the proxy.
    `marker` is the file that tells the next process. With `provisioned` people become members by
    signing in elsewhere, so that a token or such a sign-in is needed before there is a member.
    `folders` have subfolders of members, by name: a new person never gets the name of one
    that is there.
    """

    def __init__(
        self,
        repository: MemberRepository | None = None,
        *,
        marker: Path | None = None,
        provisioned: bool = False,
        folders: Iterable[Path] = (),
    ) -> None:
        self._changing = asyncio.Lock()
        self.sessions = Sessions(repository, self._changing)
        self._repository = repository
        self._marker = marker
        self._folders = tuple(folders)
        self._revision = -1
        self._loads = 0
        self._roster = Roster()
        self._uses = TokenUses(repository)
        #: Whether clients need a token; if not, everybody is the member `local`.
        self.has_members = provisioned
        self._callbacks: list[Callable[[], None]] = []
        self._checked_at = clock.now()
        self._watching: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Read the database. Raises `StorageError`."""
        await self._refresh()
        if len(self._roster):
            await mark(self._marker, expected=True)

    def start(self, supervisor: Supervisor) -> None:
        """Start the task that checks for changes by other processes and writes uses of tokens."""
        self._watching = supervisor.keep(self._watch, "watch the members")

    async def close(self) -> None:
        """Stop the task, and write the last uses of tokens."""
        await stop(self._watching)
        with contextlib.suppress(StorageError):
            await self._uses.write(self._roster.token_ids, every=True)

    def get(self, name: str) -> Member:
        """Return the member of that name.

        A name that is not a member's any more gives a disabled member without limits: its jobs may
        still run. Without members, `local` is an admin.
        """
        member = self._roster.get(name)
        if member is not None:
            return member
        return _ANYONE if name == LOCAL and not self.has_members else Member(name, disabled=True)

    def find(self, name: str) -> Member:
        """Return the member of that name, ignoring case. Raises `UnknownMemberError`."""
        return self._roster.find(name)

    def of_identity(self, identity: str) -> Member | None:
        """Return the member with an identity."""
        return self._roster.of_identity(identity)

    def members(self) -> list[Member]:
        """Return all members, sorted by name."""
        return self._roster.members()

    def names(self) -> list[str]:
        """Return the names of all members; without members it is `local`."""
        return [member.name for member in self.members()] if self.has_members else [LOCAL]

    def tokens(self, name: str | None = None) -> list[Token]:
        """Return all tokens, or those of a member, oldest first."""
        return self._roster.tokens(name)

    def last_use(self, token: Token) -> Use | None:
        """Return when and from where the token was used last, `None` if it never was."""
        return self._uses.last(token)

    def access(self, token: str) -> Access | None:
        """Return the access of a token, `None` if it is unknown, revoked or expired, or its member
        is disabled."""
        known = self._roster.token(tokens.id_of(token) or "")
        if not tokens.matches(token, known) or known is None:
            return None
        return self.access_by_id(known.id)

    def access_by_id(self, token_id: str) -> Access | None:
        """Return the access of a token by its id, as `access`."""
        token = self._roster.token(token_id)
        if token is None or token.expired(clock.now()):
            return None
        member = self.get(token.member)
        return None if member.disabled else Access(member, token)

    async def look_for(self, texts: Iterable[str], session: str | None = None) -> None:
        """Read the database again if one of these tokens, or the session of that name, is unknown:
        another process may have added it. Raises `StorageError`."""
        known = all(id_ in self._roster.token_ids for id_ in map(tokens.id_of, texts) if id_)
        if known and (session is None or self.sessions.token_of(session) is not None):
            return
        loads = self._loads
        async with self._changing:
            if self._loads > loads:
                return  # another caller has loaded it since
            changed = await self._load_if_changed()
        if changed:
            self._notify()

    async def refresh(self) -> None:
        """Read what another process has changed. Raises `StorageError`."""
        if await self._refresh():
            self._notify()

    def used(self, token: Token, address: str) -> None:
        """Note a use of a token."""
        self._uses.record(token, address)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change of members or tokens, when a token expires, and when a
        session ends."""
        self._callbacks.append(callback)

    async def end_session(self, name: str) -> None:
        """End a session by its `digest`. Raises `StorageError`."""
        if await self.sessions.end(name):
            self._notify()

    async def add(self, member: Member, *, restore: bool = False) -> Member:
        """Add a member, and return it.

        The data of removed members are kept. With `restore` the new member may have the name of a
        removed one or `LOCAL`, and gets its data. Raises `DirectoryError` for an invalid name,
        `NameTakenError`, and `UnknownMemberError` if there is none to restore.
        """
        if not _NAME.fullmatch(member.name):
            raise DirectoryError(
                f"{quoted(member.name)} is not a valid name: use 1 to 40 letters, digits, dots, "
                "hyphens and underscores. It must begin with a letter or digit and not end with a "
                "dot."
            )

        def decide() -> Change:
            name = self._roster.name_to_add(member.name, restore=restore)
            new = replace(member, name=name, created=clock.now())
            self._roster.check_identities(new)
            return Change(members=[new])

        return (await self._change(decide)).members[0]

    async def change(
        self, name: str, *, limits: dict[str, Any] | None = None, **fields: Any
    ) -> Member:
        """Change fields of a member (`role`, `weight`, `disabled`) and its limits; return it.

        Sign-ins by an identity that it loses end.
        """

        def decide() -> Change:
            member = self.find(name)
            changed = replace(member, limits=replace(member.limits, **(limits or {})), **fields)
            self._roster.check_identities(changed)
            return Change(members=[changed], revoked=self._roster.sign_ins_lost(member, changed))

        return (await self._change(decide)).members[0]

    async def provision(self, identity: str, member: Member) -> tuple[Member, bool]:
        """Return the member with an identity, and whether it is new; if there was none, `member` is
        added with it, under a free name."""
        is_new = False
        taken = await asyncio.to_thread(_subfolders, self._folders)

        def decide() -> Change:
            nonlocal is_new
            known = self._roster.of_identity(identity)
            is_new = known is None
            if known is not None:  # another request was faster
                return Change(members=[known])
            name = self._roster.free_name(member.name, taken)
            new = replace(member, name=name, identities=(identity,), created=clock.now())
            return Change(members=[new])

        change = await self._change(decide)
        return change.members[0], is_new

    async def remove(self, name: str) -> Member:
        """Remove a member and its tokens. Jobs, history and files are kept, but nobody sees them.

        After the last member the next process starts without members.
        """

        def decide() -> Change:
            member = self.find(name)
            return Change(removed=[member], revoked=self.tokens(member.name))

        change = await self._change(decide)
        if not len(self._roster):
            await mark(self._marker, expected=False)
        return change.removed[0]

    async def new_token(
        self,
        name: str,
        *,
        note: str = "",
        lifetime: float | None = None,
        until: int | None = None,
        max_tokens: int | None = None,
    ) -> tuple[str, Token]:
        """Create a token of a member. Return its text, and what is stored of it.

        It expires after `lifetime` seconds, and at `until` (ms) at the latest. Raises
        `TooManyTokensError` for a member that has `max_tokens`.
        """
        text = ""

        def decide() -> Change:
            nonlocal text
            member = self.find(name)
            if max_tokens is not None and len(self.tokens(member.name)) >= max_tokens:
                raise TooManyTokensError(
                    f"{member.name} has {max_tokens} tokens, which is the maximum: revoke one that "
                    "is not used."
                )
            now = clock.now()
            limits = [until, None if lifetime is None else now + round(lifetime * 1000)]
            expires = min((limit for limit in limits if limit is not None), default=None)
            while True:
                text, token = tokens.make(member.name, note=note, created=now, expires=expires)
                if token.id not in self._roster.token_ids:
                    return Change(tokens=[token])

        change = await self._change(decide)
        return text, change.tokens[0]

    async def sign_in_token(self, name: str, issuer: str) -> Token:
        """Return the token that stands for sign-ins of a member at an issuer."""
        token = self._roster.sign_in_token(name, issuer)
        if token is not None:
            return token

        def decide() -> Change:
            member = self.find(name)
            token = self._roster.sign_in_token(member.name, issuer)
            if token is None:
                _, made = tokens.make(member.name, note=issuer, created=clock.now(), expires=None)
                token = replace(made, digest="")
            return Change(tokens=[token])

        return (await self._change(decide)).tokens[0]

    def find_token(self, prefix: str) -> Token:
        """Return the one token whose id begins with `prefix`. Raises `UnknownTokenError`."""
        return self._roster.find_token(prefix)

    async def revoke(self, prefix: str) -> Token:
        """Revoke the one token whose id begins with `prefix`. Raises `UnknownTokenError`."""
        change = await self._change(lambda: Change(revoked=[self.find_token(prefix)]))
        return change.revoked[0]

    async def _change(self, decide: Callable[[], Change]) -> Change:
        """Write one change on the current revision; repeat it if another process was faster.

        Before the first member is written the marker says that there are members.
        """
        async with self._changing:
            while True:
                await self._load_if_changed()
                change = decide()
                if change.members:
                    await mark(self._marker, expected=True)
                try:
                    await self._write(change)
                    break
                except StaleError:  # by another process, in between
                    continue
            self._apply(change)
        self._notify()
        return change

    async def _write(self, change: Change) -> None:
        if self._repository is None:
            return
        self._revision = await self._repository.change(
            self._revision,
            members=rows_of(change),
            tokens=change.tokens,
            revoked=[token.id for token in change.revoked],
        )

    def _apply(self, change: Change) -> None:
        """Apply a written change in memory."""
        self._roster.apply(change)
        for token in change.revoked:
            self._uses.forget(token)
        self.sessions.retain(self._roster.token_ids)
        self.has_members = self.has_members or bool(len(self._roster))

    async def _refresh(self) -> bool:
        async with self._changing:
            return await self._load_if_changed()

    async def _load_if_changed(self) -> bool:
        """Read everything if there is a new revision. Return whether there was. Raises
        `StorageError`."""
        self._loads += 1
        if self._repository is None or await self._repository.revision() == self._revision:
            return False
        self._replace(await self._repository.load())
        return True

    def _replace(self, stored: StoredMembers) -> None:
        """Take what was read for all that there is. Raises `StorageError`."""
        self._roster = roster_of(stored)
        self._uses.replace(stored.tokens)
        self.sessions.replace(stored.sessions)
        self.has_members = self.has_members or bool(len(self._roster))
        self._revision = stored.revision

    async def _watch(self) -> None:
        """Check for changes every `INTERVAL`: revoked tokens must stop working."""
        lines = FailureLines()
        while True:
            await asyncio.sleep(INTERVAL)
            changed = False
            try:
                changed = await self._refresh()
                await self._uses.write(self._roster.token_ids)
                lines.ended("members_read_failed")
            except StorageError as error:
                if (more := lines.due("members_read_failed")) is not None:
                    log.error("members_read_failed", error=str(error), **more)
            previous, self._checked_at = self._checked_at, clock.now()
            expired = self._roster.any_expires(previous, self._checked_at)
            if changed or expired:
                self._notify()

    def _notify(self) -> None:
        """Call all subscribers; log what they raise."""
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("members_subscriber_failed", subscriber=repr(callback))


def _subfolders(folders: Iterable[Path]) -> frozenset[str]:
    """Return the names in these folders, in small letters; one that cannot be read has none."""
    found: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            found.update(path.name.lower() for path in folder.iterdir())
    return frozenset(found)
