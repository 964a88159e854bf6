"""The members' names for files, and what is known of the contents behind them.

Both are in the storage, and of those that were asked for last in memory. A name is written before
anyone is told it. Members share nothing.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

import structlog
from cachetools import LRUCache
from yarl import URL

from proxy.metrics import identity_of
from proxy.storage.files import AccountBlob, FileRecord, FileRepository, FileUnit
from proxy.translate.assets import Asset
from proxy.translate.names import TYPES, Place, hash_address, media_type

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_log = structlog.get_logger(__name__)

#: The account of files from before there could be several.
DEFAULT_ACCOUNT = "default"
#: Places, with or without a file, and lists of which the answers are remembered.
PLACES, LISTS = 20_000, 100
#: Contents whose hashes and names are remembered.
REMEMBERED = 20_000

_HASH_NAME = re.compile(r"(?:blake3:)?(?P<hash>[0-9a-f]{64})(?:\.\w+)?", re.IGNORECASE)


def make_record(
    member: str,
    place: Place,
    *,
    cloud_name: str,
    cloud_type: str,
    modified: float,
    account: str = DEFAULT_ACCOUNT,
    content: tuple[str, int] | None = None,
    job: str | None = None,
) -> FileRecord:
    """A record for a place; `content` is hash and size where they are known, `job` who made it."""
    hash_, size = content or (None, None)
    return FileRecord(
        member=member,
        type=place.type,
        path=place.path,
        cloud_name=cloud_name,
        cloud_type=cloud_type,
        hash=hash_,
        size=size,
        media_type=media_type(posixpath.basename(place.path)),
        modified=modified,
        account=account,
        job=job,
    )


@dataclass(frozen=True, slots=True)
class Named:
    """The answer to an upload: the name that the file has got, and the subfolder as it was sent;
    `asset` is the record of it."""

    name: str
    subfolder: str
    type: str
    asset: Asset | None = field(default=None, compare=False)


@dataclass(slots=True)
class Received:
    """Bytes of a client in a file of the cache's, with their BLAKE3, their length, and the
    metadata of their record if they are a picture."""

    path: Path
    hash: str
    size: int
    metadata: bytes | None = None


class SentContent(NamedTuple):
    """Bytes that an account has, and how it calls them."""

    account: str
    cloud_name: str


class Namespace:
    """All members' files by place. Everything raises `StorageError`.

    Anyone who chooses a name outside of a unit holds `lock(member)` until `put` or `claim` has
    returned, so that two choices at once cannot meet; those of other processes meet in `claim`.
    Where these write, nothing is remembered but files that jobs have made, which nobody changes.
    """

    def __init__(self, files: FileRepository) -> None:
        self._files = files
        self._places = Remembered[tuple[str, Place], FileRecord | None](PLACES)
        self._made = LRUCache[tuple[str, str], set[Place]](PLACES)
        self._lists = Remembered[tuple[str, str], dict[str, int | None]](LISTS)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, member: str) -> asyncio.Lock:
        """The lock under which the member's names are chosen."""
        return self._locks.setdefault(member, asyncio.Lock())

    async def get(self, member: str, place: Place) -> FileRecord | None:
        """The file at a place."""
        key = (member, place)
        if key in self._places:
            return self._places[key]
        epoch = self._places.epoch
        record = await self._files.read(lambda files: files.get(member, place))
        self._keep(member, place, record, epoch)
        return record

    async def get_many(self, member: str, places: Iterable[Place]) -> dict[Place, FileRecord]:
        """The files at those places where there is one; `blake3:…` is any file of this content."""
        wanted = dict.fromkeys(places)
        hashes = {place: hash_ for place in wanted if (hash_ := hash_address(place.path))}
        unknown = [
            place for place in wanted if (member, place) not in self._places and place not in hashes
        ]
        found: dict[Place, FileRecord] = {}
        if hashes:
            found = await self._files.read(lambda files: files.of_hashes(member, hashes))
        if unknown:
            epoch = self._places.epoch
            found |= await self._files.read(lambda files: files.get_many(member, unknown))
            for place in unknown:
                self._keep(member, place, found.get(place), epoch)
        for place in wanted:
            if place not in found and (record := self._places.get((member, place))) is not None:
                found[place] = record
        return found

    async def has_folder(self, member: str, place: Place) -> bool:
        """Whether a place is a folder: the root of its type, or one that holds a file."""
        if not place.path:
            return True
        return await self._files.read(lambda files: files.has_folder(member, place))

    async def records(self, member: str, type_: str) -> list[FileRecord]:
        """The files of a folder and what is below it, the oldest first."""
        return await self._files.read(lambda files: files.records(member, type_))

    async def listing(self, member: str, type_: str) -> dict[str, int | None]:
        """The sizes of a folder's files by path, in order; remembered until one is added."""
        key = (member, type_)
        if self._files.shared:
            return await self._files.read(lambda files: files.listing(member, type_))
        if key not in self._lists:
            epoch = self._lists.epoch
            found = await self._files.read(lambda files: files.listing(member, type_))
            self._lists.put(key, found, epoch)
            return found
        return self._lists[key]

    async def local_names(self, member: str, words: Iterable[str]) -> dict[str, str]:
        """The member's newest name of each content, by the cloud's names among the words.

        Names that the cloud gave for people are not among them: they may be a text's own words.
        """
        hashes, others = split_words(words)
        if not hashes and not others:
            return {}
        return await self._files.read(lambda files: files.local_names(member, hashes, others))

    async def put(self, records: Sequence[FileRecord]) -> None:
        """Write records."""
        await self._files.write(lambda files: files.put(records))
        self.written(records)

    async def claim(self, record: FileRecord) -> bool:
        """Write a record unless there is one at its place; says whether it was written."""
        claimed = await self._files.write(lambda files: files.claim(record))
        if claimed:
            self.written([record])
        else:
            self._places.forget((record.member, record.place))
        return claimed

    def written(self, records: Iterable[FileRecord]) -> None:
        """Records have been written in a unit of somebody else."""
        for record in records:
            self._places.epoch += 1
            self._keep(record.member, record.place, record, self._places.epoch)
            self._lists.forget((record.member, record.type))

    def forgotten(self, member: str, jobs: Iterable[str]) -> None:
        """The files that these jobs had made are gone."""
        for job in jobs:
            for place in self._made.pop((member, job), ()):
                self._places.forget((member, place))
        for type_ in TYPES:
            self._lists.forget((member, type_))

    def _keep(self, member: str, place: Place, record: FileRecord | None, epoch: int) -> None:
        """Remember what was read since `epoch`."""
        if self._files.shared and (record is None or record.job is None):
            self._places.forget((member, place))
            return
        self._places.put((member, place), record, epoch)
        if record is not None and record.job is not None:
            self._made.setdefault((member, record.job), set()).add(place)


class Remembered(LRUCache[K, V]):
    """Answers that were had last, at most this many.

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
        """What was remembered is no longer true."""
        self.epoch += 1
        self.pop(key, None)


class ContentIndex:
    """Hashes and sizes by cloud name, and cloud names by hash, for each account by its name.

    The cloud's names seem to be the BLAKE3 of the content with an extension. Where an upload
    shows that they are not, names are taken for what they are, opaque, and the content behind one
    is checked against what it was when it was first seen. Everything raises `StorageError`.
    """

    def __init__(self, files: FileRepository, accounts: Mapping[str, URL]) -> None:
        self._files = files
        self._identities = {name: identity_of(name, url) for name, url in accounts.items()}
        self._accounts = {identity: name for name, identity in self._identities.items()}
        self._hashes = Remembered[tuple[str, str], str | None](REMEMBERED)
        self._sent = Remembered[tuple[str, str], str | None](REMEMBERED)
        #: Whether the cloud's names are what they seem to be.
        self.names_are_hashes = True

    async def load(self) -> None:
        """Read whether the cloud's names are what they seem to be."""
        self.names_are_hashes = not await self._files.read(FileUnit.names_are_opaque)

    def hash_told(self, cloud_name: str) -> str | None:
        """The content's hash, if the name tells it."""
        return hash_in(cloud_name) if self.names_are_hashes else None

    async def hash_of(self, account: str, cloud_name: str) -> str | None:
        """The content's hash, from what was seen or from the name, if it can be told."""
        told = self.hash_told(cloud_name)
        if told is not None:
            return told
        identity = self._identities.get(account, "")
        return await self._recall(
            self._hashes, (identity, cloud_name), lambda files: files.hash_of(identity, cloud_name)
        )

    async def sent_as(self, account: str, hash_: str) -> str | None:
        """The account's name for bytes that it was sent before."""
        identity = self._identities.get(account)
        if identity is None:
            return None
        return await self._recall(
            self._sent, (identity, hash_), lambda files: files.sent_as(identity, hash_)
        )

    async def _recall(
        self,
        known: Remembered[tuple[str, str], str | None],
        key: tuple[str, str],
        read: Callable[[FileUnit], str | None],
    ) -> str | None:
        """What is remembered, or read now; that there is nothing holds only where nobody else
        writes."""
        if key in known:
            return known[key]
        epoch = known.epoch
        found = await self._files.read(read)
        if found is not None or not self._files.shared:
            known.put(key, found, epoch)
        return found

    async def names(self, hash_: str) -> list[tuple[str, str]]:
        """The accounts that were sent these bytes, and what they call them."""
        found = await self._files.read(lambda files: files.sent_names(hash_))
        known = {self._accounts[one]: name for one, name in found if one in self._accounts}
        return [(account, known[account]) for account in self._identities if account in known]

    async def was_sent(self, account: str, hash_: str, size: int, cloud_name: str) -> None:
        """An account has taken bytes and named them."""
        identity = self._identities[account]
        opaque = hash_in(cloud_name) not in (None, hash_)
        blob = AccountBlob(identity, cloud_name, True, hash_, size, _now())
        await self._files.write(lambda files: files.put_blobs([blob], names_are_opaque=opaque))
        self._hashes.put((identity, cloud_name), hash_)
        self._sent.put((identity, hash_), cloud_name)
        if opaque and self.names_are_hashes:
            _log.warning("content_hash_mismatched")
            self.names_are_hashes = False

    async def was_fetched(self, account: str, cloud_name: str, hash_: str, size: int) -> None:
        """The content behind a name was seen; known at once."""
        if await self.hash_of(account, cloud_name) != hash_:
            identity = self._identities.get(account, "")
            self._hashes.put((identity, cloud_name), hash_)
            blob = AccountBlob(identity, cloud_name, False, hash_, size, _now())
            await self._files.write(lambda files: files.put_blobs([blob]))


def hash_in(cloud_name: str) -> str | None:
    """The hash that a name seems to be made of: 64 hexadecimal digits, perhaps an extension."""
    match = _HASH_NAME.fullmatch(cloud_name)
    return match["hash"].lower() if match else None


def _now() -> int:
    return time.time_ns() // 1_000_000


def split_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Words that may be the cloud's names: those that look like a hash, and other file names."""
    hashes: list[str] = []
    others: list[str] = []
    for word in dict.fromkeys(words):
        if hash_in(word) is not None:
            hashes.append(word)
        elif "." in word:
            others.append(word)
    return hashes, others
