"""The members' names of files.

Names are in the database, and the last ones in memory. A name is stored before a client gets it.
Members share nothing.
"""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeVar
from weakref import WeakValueDictionary

from cachetools import LRUCache

from proxy.files.content_index import EpochCache, hash_in
from proxy.files.input_directory import InputDirectory
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileRepository
from proxy.translate.assets import Asset
from proxy.translate.jobs import reveal, words
from proxy.translate.media_types import media_type
from proxy.translate.names import TYPES, Place, hash_address, written_place

T = TypeVar("T")

#: The default account of a file.
DEFAULT_ACCOUNT = "default"
#: Maximum number of cached places, with or without a file, and of cached lists.
MAX_PLACES, MAX_LISTS = 10_000, 100
#: Maximum number of jobs whose graphs' names are cached.
MAX_JOBS = 4096


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
    """Return a record for a place; `content` is hash and size if known, `job` created the file."""
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
    """The result of an upload: the name of the file, and the subfolder as it was sent; `asset` is
    its record."""

    name: str
    subfolder: str
    type: str
    asset: Asset | None = field(default=None, compare=False)


class Namespace:
    """All members' files by place. All methods raise `StorageError`.

    To choose a name outside of a transaction, hold `lock(member)` until `put` or `claim` has
    returned, so that concurrent choices differ; other processes conflict in `claim`. If there are
    other processes, only files of jobs are cached, which never change.

    Files of `inputs` are in the folder `input`, too. Of two files at one place the newer counts.
    """

    def __init__(self, files: FileRepository, inputs: InputDirectory | None = None) -> None:
        self._files = files
        self._inputs = inputs
        self._places = EpochCache[tuple[str, Place], FileRecord | None](MAX_PLACES)
        self._made = LRUCache[tuple[str, str], set[Place]](MAX_PLACES)
        self._lists = EpochCache[tuple[str, str], dict[str, int | None]](MAX_LISTS)
        self._written = LRUCache[tuple[str, str], dict[str, str]](MAX_JOBS)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, member: str) -> asyncio.Lock:
        """Return the lock for choosing a member's names."""
        return self._locks.setdefault(member, asyncio.Lock())

    def written_place(self, member: str, text: str) -> Place | None:
        """Return the place that a member's graph names with a string, if it can be a file's name:
        as ComfyUI, also the whole path of a file in the input directory."""
        folder = "" if self._inputs is None else self._inputs.path_of(member)
        return written_place(text, folder)

    async def get(self, member: str, place: Place) -> FileRecord | None:
        """Return the file at a place, `None` if there is none."""
        if self._inputs is not None and place.type == "input":
            return (await self.get_many(member, [place])).get(place)
        key = (member, place)
        if key in self._places:
            return self._places[key]
        epoch = self._places.epoch
        record = await self._files.read(lambda files: files.get(member, place))
        self._keep(member, place, record, epoch)
        return record

    async def get_many(self, member: str, places: Iterable[Place]) -> dict[Place, FileRecord]:
        """Return existing files by place; `blake3:…` is any file of this content."""
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
        if self._inputs is not None:
            paths = [place.path for place in wanted if place.type == "input"]
            for path, record in (await self._inputs.find(member, paths)).items():
                place = Place("input", path)
                found[place] = _newer(found.get(place), record)
        return found

    async def has_folder(self, member: str, place: Place) -> bool:
        """Return whether a place is a folder: the root of its type, or one that contains a file."""
        inputs = self._inputs if place.type == "input" else None
        if inputs is not None and await inputs.has_folder(member, place.path):
            return True
        return await self._files.read(lambda files: files.has_folder(member, place))

    async def records(self, member: str, type_: str) -> list[FileRecord]:
        """Return the files below the folder of a type, the oldest first."""
        stored = await self._files.records(member, type_)
        if self._inputs is None or type_ != "input":
            return stored
        found = {record.path: record for record in stored}
        for path, record in (await self._inputs.listing(member)).items():
            found[path] = _newer(found.get(path), record)
        return sorted(found.values(), key=lambda record: record.modified)

    async def listing(self, member: str, type_: str) -> dict[str, int | None]:
        """Return the sizes of a folder's files by path, in order; cached until one is added."""
        if self._inputs is not None and type_ == "input":
            records = await self.records(member, type_)
            return {record.path: record.size for record in sorted(records, key=attrgetter("path"))}
        if (known := self._lists.get((member, type_))) is not None:
            return known
        epoch = self._lists.epoch
        found = await self._files.listing(member, type_)
        self._lists.put((member, type_), found, epoch)
        return found

    async def put_written_names(self, member: str, job: str, names: Mapping[str, str]) -> None:
        """Store the names that a job's graph has for its files, by the cloud's names, if any."""
        if names:
            await self._files.write(lambda files: files.put_written_names(member, job, names))
            self._written.pop((member, job), None)

    async def written_names(self, member: str, job: str) -> dict[str, str] | None:
        """Return the names of files in a job's graph by the cloud's names, or `None`."""
        known = self._written.get((member, job))
        if known is None:
            known = await self._files.read(lambda files: files.written_names(member, job))
            if known is not None:
                self._written[member, job] = known
        return known

    async def local_names(self, member: str, words: Iterable[str]) -> dict[str, str]:
        """Return the member's newest name of each content, by the cloud's names among the words.

        Display names of the cloud are left out: they may be words of a text.
        """
        distinct = dict.fromkeys(words)
        hashes = {word: None for word in distinct if hash_in(word)}
        others = [word for word in distinct if "." in word and word not in hashes]
        if not hashes and not others:
            return {}
        return await self._files.read(lambda files: files.local_names(member, hashes, others))

    async def revealed(
        self, member: str, value: T, job: str | None = None, *, any_words: bool = True
    ) -> T:
        """Return a value of the cloud with the member's names instead of the cloud's, at any depth.

        They are those that the graph of the `job` used, or else the newest. Without `any_words`
        only a hash has a newest name: a text may say what an account happens to call a file.
        """
        found = {word for word in words(value) if "." in word or hash_in(word)}
        if not found:
            return value
        written = None if job is None else await self.written_names(member, job)
        found -= (written or {}).keys()
        if not any_words:
            found = {word for word in found if hash_in(word)}
        known = {**await self.local_names(member, found), **(written or {})}
        return reveal(value, known) if known else value

    async def put(self, records: Sequence[FileRecord]) -> None:
        """Write records."""
        await self._files.write(lambda files: files.put(records))
        self.written(records)

    async def claim(self, record: FileRecord) -> bool:
        """Write a record unless there is one at its place. Return whether it was written."""
        claimed = await self._files.write(lambda files: files.claim(record))
        if claimed:
            self.written([record])
        else:
            self._places.forget((record.member, record.place))
        return claimed

    def written(self, records: Iterable[FileRecord]) -> None:
        """Note records that another transaction has written."""
        for record in records:
            self._keep(record.member, record.place, record)
            self._lists.forget((record.member, record.type))

    def forgotten(self, member: str, jobs: Iterable[str]) -> None:
        """Note that the files of these jobs were deleted."""
        for job in jobs:
            for place in self._made.pop((member, job), ()):
                self._places.forget((member, place))
        for type_ in TYPES:
            self._lists.forget((member, type_))

    def _keep(
        self, member: str, place: Place, record: FileRecord | None, epoch: int | None = None
    ) -> None:
        """Cache a record that was written, or with `epoch` one that was read since then."""
        self._places.put((member, place), record, epoch)
        if record is not None and record.job is not None:
            self._made.setdefault((member, record.job), set()).add(place)


def _newer(stored: FileRecord | None, on_disk: FileRecord) -> FileRecord:
    """Return the one of two files at a place that was written last, as on one disk."""
    if stored is None or stored.modified < on_disk.modified:
        return on_disk
    return stored
