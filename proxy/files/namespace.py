"""The members' names: in the storage, and of those that were asked for last in memory.

A name is written before anyone is told it. Members share nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from weakref import WeakValueDictionary

from cachetools import LRUCache

from proxy.files.contents import Remembered, hash_in
from proxy.storage.files import FileRecord, FileRepository
from proxy.translate.names import TYPES, Place

#: Places, with or without a file, and lists of which the answers are remembered.
PLACES, LISTS = 20_000, 100


class Namespace:
    """All members' files by place. Everything raises `StorageError`.

    Whoever chooses a name outside of a unit holds `lock(member)` until `put` has returned, so that
    two choices at once cannot meet.
    """

    def __init__(self, files: FileRepository) -> None:
        self._files = files
        self._places = Remembered[tuple[str, Place], FileRecord | None](PLACES)
        self._made = LRUCache[tuple[str, str], set[Place]](PLACES)
        self._lists = Remembered[tuple[str, str], list[str]](LISTS)
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
        """The files at those places where there is one."""
        wanted = dict.fromkeys(places)
        unknown = [place for place in wanted if (member, place) not in self._places]
        found: dict[Place, FileRecord] = {}
        if unknown:
            epoch = self._places.epoch
            found = await self._files.read(lambda files: files.get_many(member, unknown))
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

    async def listing(self, member: str, type_: str) -> list[str]:
        """The sorted paths of a folder's files; remembered until one is added."""
        key = (member, type_)
        if key not in self._lists:
            epoch = self._lists.epoch
            found = await self._files.read(lambda files: files.listing(member, type_))
            self._lists.put(key, found, epoch)
            return list(found)
        return list(self._lists[key])

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
        self._places.put((member, place), record, epoch)
        if record is not None and record.job is not None:
            self._made.setdefault((member, record.job), set()).add(place)


def split_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """Words that may be the cloud's names: those that look like a hash, and others."""
    hashes: list[str] = []
    others: list[str] = []
    for word in dict.fromkeys(words):
        (hashes if hash_in(word) is not None else others).append(word)
    return hashes, others
