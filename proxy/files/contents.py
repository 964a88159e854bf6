"""What is known of the cloud's contents: their hashes, and which of ours which account has."""

from __future__ import annotations

import re
import time
from collections.abc import Hashable, Mapping
from typing import TypeVar

import structlog
from cachetools import LRUCache
from yarl import URL

from proxy.files.record import DEFAULT_ACCOUNT
from proxy.storage.files import Blob, FileRepository, FileUnit

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log = structlog.get_logger(__name__)

#: Contents whose hashes and names are remembered.
REMEMBERED = 20_000

_HASH_NAME = re.compile(r"(?:blake3:)?(?P<hash>[0-9a-f]{64})(?:\.\w+)?", re.IGNORECASE)


class Remembered(LRUCache[K, V]):
    """Answers that were had last, at most so many.

    What was read before something was written is not remembered: note the `epoch` before a read.
    """

    epoch = 0

    def put(self, key: K, value: V, epoch: int | None = None) -> None:
        """Remember what was written, or with `epoch` what was read since then."""
        if epoch is None:
            self.epoch += 1
        elif epoch != self.epoch:
            return
        self[key] = value

    def forget(self, key: K) -> None:
        """What was remembered is not true any more."""
        self.epoch += 1
        self.pop(key, None)


class Contents:
    """Hashes and sizes by cloud name, and cloud names by hash, for each account by its name.

    The cloud's names seem to be the BLAKE3 of the content with an extension. Where an upload
    shows that they are not, names are taken for what they are, opaque, and the content behind one
    is checked against what it was when it was first seen. Everything raises `StorageError`.
    """

    def __init__(self, files: FileRepository, accounts: Mapping[str, URL]) -> None:
        self._files = files
        self._identities = {name: _identity(name, url) for name, url in accounts.items()}
        self._accounts = {identity: name for name, identity in self._identities.items()}
        self._hashes = Remembered[tuple[str, str], str | None](REMEMBERED)
        self._sent = Remembered[tuple[str, str], str | None](REMEMBERED)
        self._names_are_hashes = True

    async def load(self) -> None:
        """Read whether the cloud's names are what they seem to be."""
        self._names_are_hashes = not await self._files.read(FileUnit.names_are_opaque)

    async def hash_of(self, account: str, cloud_name: str) -> str | None:
        """The content's hash, from what was seen or from the name, if it can be told."""
        identity = self._identities.get(account, "")
        key = (identity, cloud_name)
        if key not in self._hashes:
            epoch = self._hashes.epoch
            known = await self._files.read(lambda files: files.hash_of(identity, cloud_name))
            self._hashes.put(key, known, epoch)
        else:
            known = self._hashes[key]
        if known is not None:
            return known
        return hash_in(cloud_name) if self._names_are_hashes else None

    async def sent_as(self, account: str, hash_: str) -> str | None:
        """The account's name for bytes that it was sent before."""
        identity = self._identities.get(account)
        if identity is None:
            return None
        key = (identity, hash_)
        if key in self._sent:
            return self._sent[key]
        epoch = self._sent.epoch
        name = await self._files.read(lambda files: files.sent_as(identity, hash_))
        self._sent.put(key, name, epoch)
        return name

    async def names(self, hash_: str) -> list[tuple[str, str]]:
        """The accounts that were sent these bytes, and what they call them."""
        found = await self._files.read(lambda files: files.sent_names(hash_))
        known = {self._accounts[one]: name for one, name in found if one in self._accounts}
        return [(account, known[account]) for account in self._identities if account in known]

    async def was_sent(self, account: str, hash_: str, size: int, cloud_name: str) -> None:
        """An account has taken bytes and named them."""
        identity = self._identities[account]
        opaque = hash_in(cloud_name) not in (None, hash_)
        blob = Blob(identity, cloud_name, True, hash_, size, _now())
        await self._files.write(lambda files: files.put_blobs([blob], names_are_opaque=opaque))
        self._hashes.put((identity, cloud_name), hash_)
        self._sent.put((identity, hash_), cloud_name)
        if opaque and self._names_are_hashes:
            _log.warning("content_hash_mismatched")
            self._names_are_hashes = False

    async def was_fetched(self, account: str, cloud_name: str, hash_: str, size: int) -> None:
        """The content behind a name was seen; known at once."""
        if await self.hash_of(account, cloud_name) != hash_:
            identity = self._identities.get(account, "")
            self._hashes.put((identity, cloud_name), hash_)
            blob = Blob(identity, cloud_name, False, hash_, size, _now())
            await self._files.write(lambda files: files.put_blobs([blob]))


def hash_in(cloud_name: str) -> str | None:
    """The hash that a name seems to be made of: 64 hexadecimal digits, perhaps an extension."""
    match = _HASH_NAME.fullmatch(cloud_name)
    return match["hash"].lower() if match else None


def _identity(account: str, base_url: URL) -> str:
    """An account's name at another cloud is another account; older stores had one for each."""
    return str(base_url) if account == DEFAULT_ACCOUNT else f"{base_url} {account}"


def _now() -> int:
    return time.time_ns() // 1_000_000
