"""Who is a member, and whose a token is: in memory, over a small database of its own.

The command line changes the database while a server runs; the server looks for changes a few times
a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from proxy.members import tokens
from proxy.members.database import FILE, MEMBERS, REMOVED, TOKENS, USES, Database, put
from proxy.members.member import LOCAL, Limits, Member
from proxy.members.sessions import Sessions
from proxy.members.tokens import Token, Use
from proxy.store.base import Delete, Put, StoreError

log = structlog.get_logger(__name__)

#: A file of the data folder that says that there are members. It outlives their database, so that
#: a lost or emptied one does not pass for a proxy that is open to everybody.
MARKER = "has-members"
_MARKER_TEXT = """\
This proxy has members. Without them it does not start while this file is here, because everybody
who reaches it could use it then. Delete this file only to give up asking for tokens.
"""

#: Seconds between two looks for changes by another process.
INTERVAL = 0.25
#: The last use of a token is written at most once in so many ms.
USE_INTERVAL = 60_000

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,38}[A-Za-z0-9_-])?", re.ASCII)

#: The one member of a proxy without members.
_ANYONE = Member(LOCAL, role="admin", limits=Limits(stored_bytes=None))


class DirectoryError(Exception):
    """What was asked of the directory cannot be. The text is one sentence that says what to do."""


class UnknownMemberError(DirectoryError):
    """There is no such member."""


class UnknownTokenError(DirectoryError):
    """There is no such token, or several that begin so."""


class NameTakenError(DirectoryError):
    """There is, or was, a member of that name."""


@dataclass(frozen=True, slots=True)
class Access:
    """A token that lets its member in."""

    member: Member
    token: Token


class Directory:
    """The members and their tokens. Without a database they are kept in memory alone.

    Without members the proxy is a tool for one: everybody is the member `local`. Once a process
    has known a member this is over for its life, so that removing the last member does not open
    the door.
    """

    def __init__(
        self,
        database: Database | None = None,
        *,
        now: Callable[[], float] = time.time,
        marker: Path | None = None,
    ) -> None:
        self.sessions = Sessions(database.store if database is not None else None, now=now)
        self._database = database
        self._now = now
        self._marker = marker
        self._members: dict[str, Member] = {}
        self._tokens: dict[str, Token] = {}
        self._uses: dict[str, Use] = {}
        self._removed: dict[str, str] = {}
        self._gated = False
        self._written: dict[str, int] = {}
        self._changed: list[Callable[[], None]] = []
        self._changing = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, folder: Path) -> Directory:
        """The directory of a data folder, which may be another process's.

        Raises `StoreError` when its file cannot be opened or is damaged: never does a broken file
        pass for a proxy without members.
        """
        directory = cls(await Database.open(folder), marker=folder / MARKER)
        try:
            await directory._load_if_changed()
            await directory.sessions.load()
            if directory.has_members:
                await directory._mark(expected=True)
        except StoreError:
            await directory.close()
            raise
        return directory

    def start(self) -> None:
        """From now on look for changes by other processes, and write down uses."""
        self._watching = asyncio.create_task(self._watch(), name="watch the members")

    async def close(self) -> None:
        """Write down the last uses, and close."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._database is not None:
            with contextlib.suppress(StoreError):
                await self._write_uses(every=True)
            await self._database.close()

    # --- asking ----------------------------------------------------------------------------

    @property
    def has_members(self) -> bool:
        """Whether clients need a token; if not, everybody is the member `local`."""
        return self._gated

    def get(self, name: str) -> Member:
        """The member of that name.

        One who is no member (any more) is a disabled member without limits: there may still be
        jobs in that name. Without members, `local` is an admin.
        """
        member = self._members.get(name.lower())
        if member is not None and member.name == name:
            return member
        return _ANYONE if name == LOCAL and not self._gated else Member(name, disabled=True)

    def find(self, name: str) -> Member:
        """The member of that name, however it is capitalised. Raises `UnknownMemberError`."""
        try:
            return self._members[name.lower()]
        except KeyError:
            raise UnknownMemberError(
                f"There is no member {_quoted(name)}: see comfy-cloud-proxy member list."
            ) from None

    def members(self) -> list[Member]:
        """All members, by name."""
        return [self._members[key] for key in sorted(self._members)]

    def tokens(self, name: str | None = None) -> list[Token]:
        """All tokens, or those of a member, oldest first."""
        found = [one for one in self._tokens.values() if name is None or one.member == name]
        return sorted(found, key=lambda token: (token.created, token.id))

    def last_use(self, token: Token) -> Use | None:
        """When and from where the token was used last."""
        return self._uses.get(token.id)

    def authenticate(self, token: str) -> Member | None:
        """Whose the token is, if it lets them in."""
        access = self.access(token)
        return access.member if access is not None else None

    def access(self, token: str) -> Access | None:
        """The token, if it is one that is neither revoked nor expired, of a member not disabled."""
        known = self._tokens.get(tokens.id_of(token) or "")
        if not tokens.matches(token, known) or known is None:
            return None
        return self.access_by_id(known.id)

    def access_by_id(self, token_id: str) -> Access | None:
        """The same of a token that was shown before."""
        token = self._tokens.get(token_id)
        if token is None or token.expired(self._ms()):
            return None
        member = self.get(token.member)
        return None if member.disabled else Access(member, token)

    def used(self, token: Token, address: str) -> None:
        """Note a use. It is written later, at most once a minute."""
        self._uses[token.id] = Use(self._ms(), address)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call back after each change of members or tokens, and when a token expires."""
        self._changed.append(callback)

    # --- changing --------------------------------------------------------------------------

    async def add(self, member: Member, *, restore: bool = False) -> Member:
        """Take in a new member.

        The data of removed members stay. Only with `restore` a new member gets such a name, and
        the data. Raises `DirectoryError` for a name that cannot be one, `NameTakenError`.
        """
        if not _NAME.fullmatch(member.name):
            raise DirectoryError(
                f"{_quoted(member.name)} cannot be the name of a member: take 1 to 40 letters, "
                "digits, dots, hyphens and underscores that begin with a letter or digit and do "
                "not end with a dot."
            )
        async with self._change():
            key = member.name.lower()
            if key in self._members:
                raise NameTakenError(
                    f"There is a member {self._members[key].name} already: choose another name."
                )
            if key in self._removed and not restore:
                raise NameTakenError(
                    f"{self._removed[key]} was a member, whose history and files are still here: "
                    "choose another name, or restore that member with its data (--restore)."
                )
            member = replace(member, name=self._removed.get(key, member.name), created=self._ms())
            await self._mark(expected=True)
            await self._write(put(MEMBERS, key, member), Delete(REMOVED, key))
            self._removed.pop(key, None)
            self._members[key] = member
        return member

    async def change(
        self, name: str, *, limits: dict[str, Any] | None = None, **fields: Any
    ) -> Member:
        """Give other values to fields of a member (but `name` and `created`) and its limits."""
        async with self._change():
            member = self.find(name)
            changed = replace(member, limits=replace(member.limits, **(limits or {})), **fields)
            await self._write(put(MEMBERS, name.lower(), changed))
            self._members[name.lower()] = changed
        return changed

    async def remove(self, name: str) -> Member:
        """Remove a member and its tokens. Jobs, history and files stay, for nobody to see.

        Without the last one no members are expected any more at the next start.
        """
        async with self._change():
            member = self.find(name)
            key = name.lower()
            gone = [token.id for token in self.tokens(member.name)]
            await self._write(
                Delete(MEMBERS, key),
                put(REMOVED, key, member.name),
                *(Delete(kind, id_) for id_ in gone for kind in (TOKENS, USES)),
            )
            del self._members[key]
            self._removed[key] = member.name
            for id_ in gone:
                self._tokens.pop(id_, None)
                self._uses.pop(id_, None)
            if not self._members:
                await self._mark(expected=False)
        return member

    async def new_token(
        self, name: str, *, note: str = "", lifetime: float | None = None
    ) -> tuple[str, Token]:
        """A new token of a member, which expires after `lifetime` seconds, and what is kept."""
        async with self._change():
            member = self.find(name)
            now = self._ms()
            expires = None if lifetime is None else now + round(lifetime * 1000)
            text, token = tokens.make(member.name, note=note, created=now, expires=expires)
            while token.id in self._tokens:
                text, token = tokens.make(member.name, note=note, created=now, expires=expires)
            await self._write(put(TOKENS, token.id, token))
            self._tokens[token.id] = token
        return text, token

    def find_token(self, prefix: str) -> Token:
        """The one token whose id begins so. Raises `UnknownTokenError`."""
        start = tokens.id_prefix(prefix)
        found = [token for id_, token in self._tokens.items() if start and id_.startswith(start)]
        if len(found) == 1:
            return found[0]
        problem = "Several tokens begin" if found else "No token begins"
        shown = f"{tokens.PREFIX}{start}" if start.isalnum() else "this"
        raise UnknownTokenError(f"{problem} with {shown}: see comfy-cloud-proxy token list.")

    async def revoke(self, prefix: str) -> Token:
        """Revoke the one token whose id begins so. Raises `UnknownTokenError`."""
        async with self._change():
            token = self.find_token(prefix)
            await self._write(Delete(TOKENS, token.id), Delete(USES, token.id))
            del self._tokens[token.id]
            self._uses.pop(token.id, None)
        return token

    # --- the database ----------------------------------------------------------------------

    def _ms(self) -> int:
        return int(self._now() * 1000)

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[None]:
        """One change at a time among all processes, each on what the one before has left."""
        alone = self._database.locked() if self._database is not None else nullcontext()
        async with self._changing, alone:
            await self._load_if_changed()
            yield
            self._gated = self._gated or bool(self._members)
        self._tell()

    async def _write(self, *changes: Put | Delete) -> None:
        if self._database is not None:
            await self._database.write(*changes)

    async def _load_if_changed(self) -> bool:
        held = await self._database.news() if self._database is not None else None
        if held is None:
            return False
        self._members, self._tokens, self._removed = held.members, held.tokens, held.removed
        for id_ in self._uses.keys() - held.tokens.keys():
            del self._uses[id_]
        for id_, use in held.uses.items():
            ours = self._uses.get(id_)
            if id_ in held.tokens and (ours is None or ours.at < use.at):
                self._uses[id_] = use
                self._written[id_] = use.at
        self._gated = self._gated or bool(held.members)
        return True

    async def _watch(self) -> None:
        """Look every now and then, whatever goes wrong: revoked tokens must stop working."""
        last, failing = self._ms(), False
        while True:
            await asyncio.sleep(INTERVAL)
            changed = False
            try:
                changed = await self._look()
                await self._write_uses()
                await self.sessions.forget(self._tokens.__contains__)
                failing = False
            except StoreError as error:
                if not failing:
                    log.error("members_unreadable", error=str(error))
                failing = True
            except Exception:
                if not failing:
                    log.exception("members_watch_failed")
                failing = True
            now = self._ms()
            ended = any(last < (one.expires or 0) <= now for one in self._tokens.values())
            last = now
            if changed or ended:
                self._tell()

    async def _look(self) -> bool:
        async with self._changing:
            return await self._load_if_changed()

    async def _mark(self, *, expected: bool) -> None:
        """Say in the folder whether there have to be members. Raises `StoreError`."""
        if self._marker is None or await asyncio.to_thread(self._marker.exists) is expected:
            return
        try:
            if expected:
                await asyncio.to_thread(self._marker.write_text, _MARKER_TEXT)
            else:
                await asyncio.to_thread(self._marker.unlink, missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot change {self._marker}: {error.strerror}") from error

    async def _write_uses(self, *, every: bool = False) -> None:
        due = {
            id_: use
            for id_, use in self._uses.items()
            if use.at > self._written.get(id_, 0) + (0 if every else USE_INTERVAL)
            and id_ in self._tokens
        }
        if due:
            await self._write(*(put(USES, id_, use) for id_, use in due.items()))
            self._written.update((id_, use.at) for id_, use in due.items())

    def _tell(self) -> None:
        """Call all subscribers; one that fails keeps no other from hearing."""
        for callback in self._changed:
            try:
                callback()
            except Exception:
                log.exception("members_subscriber_failed", subscriber=repr(callback))


async def any_members(folder: Path) -> bool:
    """Whether the data folder has members. Raises `StoreError`."""
    if not await asyncio.to_thread((folder / FILE).exists):
        return False
    directory = await Directory.open(folder)
    try:
        return directory.has_members
    finally:
        await directory.close()


def _quoted(name: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return f"“{text[:60]}”"
