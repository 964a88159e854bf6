"""What is known of contents: their hashes, and their names on accounts."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import structlog
from cachetools import LRUCache

from proxy.cloud.observations import identity_of
from proxy.cloud.upstream import Upstream
from proxy.files.input_directory import ON_DISK, InputDirectory
from proxy.runtime.clock import now
from proxy.storage.file_tables import AccountBlob, FileRecord
from proxy.storage.files import FileRepository, FileUnit

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log = structlog.get_logger(__name__)

#: Maximum number of contents whose hashes and names are cached.
MAX_CACHED = 10_000
_HASH_NAME = re.compile(r"(?:blake3:)?(?P<hash>[0-9a-f]{64})(?:\.\w+)?", re.IGNORECASE)


class EpochCache(LRUCache[K, V]):
    """A cache that rejects values that were read before a write: note the `epoch` before a read."""

    epoch = 0

    def put(self, key: K, value: V, epoch: int | None = None) -> None:
        """Cache a written value, or with `epoch` one that was read since then."""
        if epoch is None:
            self.epoch += 1
        elif epoch != self.epoch:
            return
        self[key] = value

    def forget(self, key: K) -> None:
        """Remove a value, and reject values that are being read."""
        self.epoch += 1
        self.pop(key, None)


class ContentIndex:
    """Hashes by cloud name, and cloud names by hash, for each account by its name.

    The cloud's names seem to be the BLAKE3 of the content with an extension. After an upload whose
    name is not its hash, names count as opaque. All methods raise `StorageError`.
    """

    def __init__(
        self,
        files: FileRepository,
        clouds: Mapping[str, Upstream],
        inputs: InputDirectory | None = None,
    ) -> None:
        self._files = files
        self._inputs = inputs
        self._clouds = clouds
        self._identities = {
            name: identity_of(name, cloud.base_url) for name, cloud in clouds.items()
        }
        self._accounts = {identity: name for name, identity in self._identities.items()}
        self._hashes = EpochCache[tuple[str, str], str | None](MAX_CACHED)
        self._sent = EpochCache[tuple[str, str], str | None](MAX_CACHED)
        self._seen = LRUCache[FileRecord, str](MAX_CACHED)
        #: Whether the cloud's names contain the hash of the content.
        self.names_are_hashes = True

    async def load(self) -> None:
        """Read whether the cloud's names are hashes, from previous uploads and the probe."""
        opaque = await self._files.read(FileUnit.names_are_opaque)
        observed = [cloud.observations.facts.get("upload_hash") for cloud in self._clouds.values()]
        self.names_are_hashes = not opaque and "another" not in observed

    def hash_by_name(self, cloud_name: str) -> str | None:
        """Return the hash of a content if the cloud's name contains it, else `None`."""
        return hash_in(cloud_name) if self.names_are_hashes else None

    async def hash_of(self, record: FileRecord) -> str | None:
        """Return the hash of a file's content if it is known without reading it, else `None`."""
        named = record.hash or self.hash_by_name(record.cloud_name)
        return named or await self._observed(record)

    async def _observed(self, record: FileRecord) -> str | None:
        """Return the hash that was observed of a file, `None` if none was.

        The cloud may use another name of an output again for another job, so that only what was
        observed for this job counts.
        """
        if record.account == ON_DISK:
            return None if self._inputs is None else await self._inputs.hash_of(record)
        if record.cloud_type == "input":
            key = self._identities.get(record.account, ""), record.cloud_name
            return await self._recall(self._hashes, key, lambda files: files.hash_of(*key))
        if record.job is None:
            return None
        if (seen := self._seen.get(record)) is not None:
            return seen
        job = record.job
        return await self._files.read(
            lambda files: files.assets.hash_made_by(record.member, record.place, job)
        )

    async def is_reused(self, record: FileRecord) -> bool:
        """Return whether the cloud has used an output's name again for a later output, which it
        then returns under this name."""
        if record.cloud_type == "input" or hash_in(record.cloud_name) is not None:
            return False
        return await self._files.read(lambda files: files.is_reused(record))

    def saw(self, record: FileRecord, hash_: str) -> None:
        """Note the content of an output."""
        self._seen[record] = hash_

    async def sent_as(self, account: str, hash_: str) -> str | None:
        """Return the account's name of bytes that were sent to it, `None` if they were not."""
        identity = self._identities.get(account)
        if identity is None:
            return None
        return await self._recall(
            self._sent, (identity, hash_), lambda files: files.sent_as(identity, hash_)
        )

    async def _recall(
        self,
        known: EpochCache[tuple[str, str], str | None],
        key: tuple[str, str],
        read: Callable[[FileUnit], str | None],
    ) -> str | None:
        """Return the cached value, or read it."""
        if key in known:
            return known[key]
        epoch = known.epoch
        found = await self._files.read(read)
        known.put(key, found, epoch)
        return found

    async def names(self, hash_: str) -> dict[str, str]:
        """Return the accounts that these bytes were sent to, each with its name of them."""
        found = await self._files.read(lambda files: files.sent_names(hash_))
        known = {
            self._accounts[identity]: name for identity, name in found if identity in self._accounts
        }
        return {account: known[account] for account in self._identities if account in known}

    async def was_sent(self, account: str, hash_: str, size: int, cloud_name: str) -> None:
        """Note that bytes were sent to an account, and its name of them."""
        identity = self._identities[account]
        opaque = hash_in(cloud_name) not in (None, hash_)
        blob = AccountBlob(identity, cloud_name, True, hash_, size, now())
        await self._files.write(lambda files: files.put_blobs([blob], names_are_opaque=opaque))
        self._hashes.put((identity, cloud_name), hash_)
        self._sent.put((identity, hash_), cloud_name)
        if opaque and self.names_are_hashes:
            _log.warning("content_hash_mismatched")
            self.names_are_hashes = False


def hash_in(cloud_name: str) -> str | None:
    """Return the hash in a cloud name: 64 hexadecimal digits, perhaps with an extension."""
    match = _HASH_NAME.fullmatch(cloud_name)
    return match["hash"].lower() if match else None
