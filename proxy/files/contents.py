"""What is known of the cloud's contents: their hashes, and which of ours it has."""

from __future__ import annotations

import re

import msgspec
import structlog

from proxy.store.base import Store

_log = structlog.get_logger(__name__)

COLLECTION = "contents"

_HASH_NAME = re.compile(r"(?:blake3:)?(?P<hash>[0-9a-f]{64})(?:\.\w+)?", re.IGNORECASE)


class _Known(msgspec.Struct, frozen=True):
    """A content by its cloud name; `sent_to` is the cloud that took it as an upload, if any."""

    cloud_name: str
    hash: str
    size: int
    sent_to: str | None = None


class Contents:
    """Hashes and sizes by cloud name, and cloud names by hash.

    The cloud's names seem to be the BLAKE3 of the content with an extension. Where an upload
    shows that they are not, names are taken for what they are, opaque, and the content behind one
    is checked against what it was when it was first seen.
    """

    def __init__(self, store: Store, cloud: str) -> None:
        self._store = store
        self._cloud = cloud
        self._known: dict[str, _Known] = {}
        self._sent: dict[str, str] = {}
        self._names_are_hashes = True

    async def load(self) -> None:
        """Read what was written before. Raises `StoreError`."""
        async for key, value in self._store.scan(COLLECTION):
            try:
                self._remember(msgspec.json.decode(value, type=_Known))
            except msgspec.DecodeError as error:
                _log.warning("what is known of a content is unreadable", key=key, reason=str(error))

    def hash_of(self, cloud_name: str) -> str | None:
        """The content's hash, from what was seen or from the name, if it can be told."""
        known = self._known.get(cloud_name)
        if known is not None:
            return known.hash
        return hash_in(cloud_name) if self._names_are_hashes else None

    def sent_as(self, hash_: str) -> str | None:
        """The cloud's name for bytes that it was sent before."""
        return self._sent.get(hash_)

    async def was_sent(self, hash_: str, size: int, cloud_name: str) -> None:
        """The cloud has taken bytes and named them. Raises `StoreError`."""
        known = _Known(cloud_name, hash_, size, self._cloud)
        await self._write(known)
        self._remember(known)

    async def was_fetched(self, cloud_name: str, hash_: str, size: int) -> None:
        """The content behind a name was seen; known at once. Raises `StoreError`."""
        if self.hash_of(cloud_name) != hash_:
            known = _Known(cloud_name, hash_, size)
            self._remember(known)
            await self._write(known)

    async def _write(self, known: _Known) -> None:
        key = f"{known.sent_to or ''} {known.cloud_name}"
        await self._store.put(COLLECTION, key, msgspec.json.encode(known))

    def _remember(self, known: _Known) -> None:
        self._known[known.cloud_name] = known
        if known.sent_to != self._cloud:
            return
        self._sent[known.hash] = known.cloud_name
        if hash_in(known.cloud_name) not in (None, known.hash):
            if self._names_are_hashes:
                _log.warning("the cloud's names are not the BLAKE3 of the contents")
            self._names_are_hashes = False


def hash_in(cloud_name: str) -> str | None:
    """The hash that a name seems to be made of: 64 hexadecimal digits, perhaps an extension."""
    match = _HASH_NAME.fullmatch(cloud_name)
    return match["hash"].lower() if match else None
