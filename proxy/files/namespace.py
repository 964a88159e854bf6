"""The members' names: in memory to be asked, in the store to last.

A name is written to the store before anyone is told it. Members share nothing.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec
import structlog

from proxy.files.contents import hash_in
from proxy.files.record import FileRecord
from proxy.store.base import Delete, Put, Store
from proxy.translate.names import Place, counters

_log = structlog.get_logger(__name__)

COLLECTION = "files"


@dataclass(slots=True)
class _Space:
    """One member's files."""

    files: dict[Place, FileRecord] = field(default_factory=dict)
    folders: set[Place] = field(default_factory=set)
    counters: dict[tuple[Place, str], int] = field(default_factory=dict)
    local_names: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, FileRecord] = field(default_factory=dict)
    listings: dict[str, list[str]] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def add(self, record: FileRecord) -> None:
        place = record.place
        self.files.pop(place, None)  # a file that is written again becomes the newest
        self.files[place] = record
        self.listings.pop(place.type, None)
        folder = Place(place.type, place.subfolder)
        for stem, number in counters(record.filename):
            highest = self.counters.get((folder, stem), 0)
            self.counters[folder, stem] = max(highest, number)
        while folder.path:
            self.folders.add(folder)
            folder = Place(folder.type, folder.subfolder)
        if record.cloud_type == "input" or hash_in(record.cloud_name) is not None:
            self.local_names[record.cloud_name] = record.path
        if record.cloud_type == "input":
            self.uploads[record.cloud_name] = record


class Namespace:
    """All members' files by place.

    Whoever chooses a name holds `lock(member)` until `put` has returned, so that two choices at
    once cannot meet.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._spaces: defaultdict[str, _Space] = defaultdict(_Space)

    async def load(self) -> None:
        """Read what was written before. Raises `StoreError`."""
        records = []
        async for key, value in self._store.scan(COLLECTION):
            try:
                records.append(msgspec.json.decode(value, type=FileRecord))
            except msgspec.DecodeError as error:
                _log.warning("file_record_rejected", key=key, reason=str(error))
        for record in sorted(records, key=lambda record: record.modified):
            self._spaces[record.member].add(record)

    def lock(self, member: str) -> asyncio.Lock:
        """The lock under which the member's names are chosen."""
        return self._spaces[member].lock

    def get(self, member: str, place: Place) -> FileRecord | None:
        """The file at a place."""
        return self._spaces[member].files.get(place)

    def has_folder(self, member: str, place: Place) -> bool:
        """Whether a place is a folder: the root of its type, or one that holds a file."""
        return not place.path or place in self._spaces[member].folders

    def records(self, member: str, type_: str) -> list[FileRecord]:
        """The files of a folder and what is below it, the oldest first."""
        files = self._spaces[member].files.values()
        return [record for record in files if record.type == type_]

    def listing(self, member: str, type_: str) -> list[str]:
        """The sorted paths of a folder's files; remembered until one is added."""
        listings = self._spaces[member].listings
        if type_ not in listings:
            listings[type_] = sorted(record.path for record in self.records(member, type_))
        return list(listings[type_])

    def next_number(self, member: str, folder: Place, stem: str) -> int:
        """The counter that ComfyUI gives to the next output with this stem, from 1 on."""
        return self._spaces[member].counters.get((folder, stem), 0) + 1

    def local_names(self, member: str) -> Mapping[str, str]:
        """The member's newest name of each content, by the cloud's name.

        Names that the cloud gave for people are not among them: they may be a text's own words.
        """
        return self._spaces[member].local_names

    def upload_named(self, member: str, cloud_name: str) -> FileRecord | None:
        """The file of the member that was sent to the cloud and is called so there."""
        return self._spaces[member].uploads.get(cloud_name)

    def also_called(self, record: FileRecord, cloud_name: str) -> None:
        """Another account calls the content of a file so."""
        space = self._spaces[record.member]
        space.local_names.setdefault(cloud_name, record.path)
        space.uploads.setdefault(cloud_name, record)

    def everything(self) -> Iterator[FileRecord]:
        """The files of all members."""
        for space in self._spaces.values():
            yield from space.files.values()

    async def put(
        self, records: Sequence[FileRecord], *, beside: Sequence[Put | Delete] = ()
    ) -> None:
        """Write records, and other changes in the same transaction. Raises `StoreError`."""
        puts = [Put(COLLECTION, _key(record), msgspec.json.encode(record)) for record in records]
        await self._store.write([*puts, *beside])
        for record in records:
            self._spaces[record.member].add(record)


def _key(record: FileRecord) -> str:
    return f"{quote(record.member, safe='')}/{record.type}/{record.path}"
