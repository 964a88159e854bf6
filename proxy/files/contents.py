"""What is known of the cloud's contents: their hashes, and which of ours which account has."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec
import structlog
from yarl import URL

from proxy.files.record import DEFAULT_ACCOUNT
from proxy.store.base import Store

_log = structlog.get_logger(__name__)

COLLECTION = "contents"

_HASH_NAME = re.compile(r"(?:blake3:)?(?P<hash>[0-9a-f]{64})(?:\.\w+)?", re.IGNORECASE)


class _Known(msgspec.Struct, frozen=True):
    """A content by its cloud name.

    `sent_to` is the account that took it as an upload, `seen_at` the one from which it was
    fetched; of what was fetched before there could be several accounts nobody knows which.
    """

    cloud_name: str
    hash: str
    size: int
    sent_to: str | None = None
    seen_at: str | None = None


class Contents:
    """Hashes and sizes by cloud name, and cloud names by hash, for each account by its name.

    The cloud's names seem to be the BLAKE3 of the content with an extension. Where an upload
    shows that they are not, names are taken for what they are, opaque, and the content behind one
    is checked against what it was when it was first seen.
    """

    def __init__(self, store: Store, accounts: Mapping[str, URL]) -> None:
        self._store = store
        self._identities = {name: _identity(name, url) for name, url in accounts.items()}
        self._known: dict[tuple[str | None, str], str] = {}
        self._sent: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._names_are_hashes = True

    async def load(self) -> None:
        """Read what was written before. Raises `StoreError`."""
        async for key, value in self._store.scan(COLLECTION):
            try:
                self._remember(msgspec.json.decode(value, type=_Known))
            except msgspec.DecodeError as error:
                _log.warning("content_record_rejected", key=key, reason=str(error))

    def hash_of(self, account: str, cloud_name: str) -> str | None:
        """The content's hash, from what was seen or from the name, if it can be told."""
        known = self._known.get((self._identities.get(account), cloud_name))
        known = known or self._known.get((None, cloud_name))
        if known is not None:
            return known
        return hash_in(cloud_name) if self._names_are_hashes else None

    def sent_as(self, account: str, hash_: str) -> str | None:
        """The account's name for bytes that it was sent before."""
        return self._sent[self._identities.get(account, "")].get(hash_)

    def names(self, hash_: str) -> Iterator[tuple[str, str]]:
        """The accounts that were sent these bytes, and what they call them."""
        for account in self._identities:
            cloud_name = self.sent_as(account, hash_)
            if cloud_name is not None:
                yield account, cloud_name

    async def was_sent(self, account: str, hash_: str, size: int, cloud_name: str) -> None:
        """An account has taken bytes and named them. Raises `StoreError`."""
        identity = self._identities[account]
        known = _Known(cloud_name, hash_, size, sent_to=identity)
        await self._write(f"{identity} {cloud_name}", known)
        self._remember(known)

    async def was_fetched(self, account: str, cloud_name: str, hash_: str, size: int) -> None:
        """The content behind a name was seen; known at once. Raises `StoreError`."""
        if self.hash_of(account, cloud_name) != hash_:
            identity = self._identities.get(account)
            known = _Known(cloud_name, hash_, size, seen_at=identity)
            self._remember(known)
            await self._write(f"seen at {identity or ''} {cloud_name}", known)

    async def _write(self, key: str, known: _Known) -> None:
        await self._store.put(COLLECTION, key, msgspec.json.encode(known))

    def _remember(self, known: _Known) -> None:
        self._known[known.sent_to or known.seen_at, known.cloud_name] = known.hash
        if known.sent_to is None or known.sent_to not in self._identities.values():
            return
        self._sent[known.sent_to][known.hash] = known.cloud_name
        if hash_in(known.cloud_name) not in (None, known.hash):
            if self._names_are_hashes:
                _log.warning("content_hash_mismatched")
            self._names_are_hashes = False


def hash_in(cloud_name: str) -> str | None:
    """The hash that a name seems to be made of: 64 hexadecimal digits, perhaps an extension."""
    match = _HASH_NAME.fullmatch(cloud_name)
    return match["hash"].lower() if match else None


def _identity(account: str, base_url: URL) -> str:
    """An account's name at another cloud is another account; older stores had one for each."""
    return str(base_url) if account == DEFAULT_ACCOUNT else f"{base_url} {account}"
