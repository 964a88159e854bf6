"""The members' names for files, and those that outputs of jobs are given, once and for the life of
the record.

Names are in the storage, and those that were asked for last in memory. One is written before
anyone is told it. Members share nothing.
"""

from __future__ import annotations

import asyncio
import posixpath
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

import msgspec
from cachetools import LRUCache

from proxy.files.library import Library, Remembered, hash_in
from proxy.files.pictures import NotAPictureError, size_of
from proxy.storage.files import FileRecord, FileRepository, FileUnit
from proxy.translate import names
from proxy.translate.assets import Asset, of_file
from proxy.translate.errors import LocalError
from proxy.translate.jobs import filename_prefix, reveal, words
from proxy.translate.names import TYPES, Place, hash_address, media_type

T = TypeVar("T")

#: The account of files from before there could be several.
DEFAULT_ACCOUNT = "default"
#: Places, with or without a file, and lists of which the answers are remembered.
PLACES, LISTS = 20_000, 100
#: Nodes whose names are kept in memory; those of others are read from the store again.
REMEMBERED = 4096
#: Names of earlier runs under the same `prompt_id` that a node keeps.
MOST_GIVEN = 1000
#: Seconds to wait for a picture whose size its name is to show.
MEASURE_TIMEOUT = 20.0


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
        self._written = LRUCache[tuple[str, str], dict[str, str]](REMEMBERED)
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
        return await self._files.read(lambda files: files.has_folder(member, place))

    async def records(self, member: str, type_: str) -> list[FileRecord]:
        """The files of a folder and what is below it, the oldest first."""
        return await self._files.read(lambda files: files.records(member, type_))

    async def listing(self, member: str, type_: str) -> dict[str, int | None]:
        """The sizes of a folder's files by path, in order; remembered until one is added."""
        if (known := self._lists.get((member, type_))) is not None:
            return known
        epoch = self._lists.epoch
        found = await self._files.read(lambda files: files.listing(member, type_))
        if not self._files.shared:
            self._lists.put((member, type_), found, epoch)
        return found

    async def put_written_names(self, member: str, job: str, names: Mapping[str, str]) -> None:
        """Keep what the graph of a job calls its files, by the cloud's names, if it has any."""
        if names:
            await self._files.write(lambda files: files.put_written_names(member, job, names))
            self._written.pop((member, job), None)

    async def written_names(self, member: str, job: str) -> dict[str, str] | None:
        """Return what the graph of a job called its files, by the cloud's names, if it had any."""
        known = self._written.get((member, job))
        if known is None:
            known = await self._files.read(lambda files: files.written_names(member, job))
            if known is not None:
                self._written[member, job] = known
        return known

    async def local_names(self, member: str, words: Iterable[str]) -> dict[str, str]:
        """The member's newest name of each content, by the cloud's names among the words.

        Names that the cloud gave for people are not among them: they may be a text's own words.
        """
        distinct = dict.fromkeys(words)
        hashes = {word: None for word in distinct if hash_in(word)}
        others = [word for word in distinct if "." in word and word not in hashes]
        if not hashes and not others:
            return {}
        return await self._files.read(lambda files: files.local_names(member, hashes, others))

    async def revealed(self, member: str, value: T, job: str | None) -> T:
        """Return a value of the cloud with the member's names instead of the cloud's, at any depth.

        They are those that the graph of the `job` used, or else the newest.
        """
        found = words(value)
        written = None
        if job is not None and any(hash_in(word) or "." in word for word in found):
            written = await self.written_names(member, job)
        found -= (written or {}).keys()
        known = {**await self.local_names(member, found), **(written or {})}
        return reveal(value, known) if known else value

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


class Given(msgspec.Struct, frozen=True):
    """A name that was given to the file at `index` under `key` of a node's output.

    `asset` is the id of its record.
    """

    key: str
    index: int
    cloud_name: str
    type: str
    path: str
    asset: str | None = None


class _Where(NamedTuple):
    """Where a file is for the member, and the id of its record."""

    place: Place
    asset: str | None


class _Item(NamedTuple):
    """A file of an output as the cloud tells it."""

    key: str
    position: int
    item: Mapping[str, Any]

    @property
    def cloud_name(self) -> str:
        return str(self.item["filename"])


class _Job(NamedTuple):
    """Whose output it is."""

    member: str
    prompt_id: str
    node_id: str
    node: Mapping[str, Any] | None
    account: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.member, self.prompt_id, self.node_id


@dataclass(eq=False)
class Outputs:
    """Gives names to outputs and remembers them; `_with_ids` puts the ids of assets there, too."""

    _library: Library
    _namespace: Namespace
    _with_ids: bool
    _now: Callable[[], float]

    def __post_init__(self) -> None:
        self._given: LRUCache[tuple[str, str, str], list[Given]] = LRUCache(REMEMBERED)

    async def localise(
        self,
        member: str,
        prompt_id: str,
        node_id: str,
        node: Mapping[str, Any] | None,
        output: Mapping[str, Any],
        *,
        account: str,
    ) -> dict[str, Any]:
        """An account's output of a node in local form. The same for the same files at any time.

        A file keeps the name that it was first given, whether the cloud's event or the job's
        detail was first to tell of it. Raises `StorageError`; then no name was given.
        """
        job = _Job(member, prompt_id, node_id, node, account)
        shaped = names.with_core_keys(output)
        items = [_Item(*found) for found in names.files(shaped)]
        local = {key: [*one] if isinstance(one, list) else one for key, one in shaped.items()}
        for item in items:
            local[item.key][item.position] = names.own_fields(item.item)
        local = await self._namespace.revealed(member, local, prompt_id)
        for item, (place, asset) in zip(items, await self._places(job, items), strict=True):
            local[item.key][item.position] = {
                "filename": posixpath.basename(place.path),
                "subfolder": place.subfolder,
                "type": place.type,
                **local[item.key][item.position],
                **(names.asset_ids(place, asset) if self._with_ids and asset else {}),
            }
        return local

    async def _places(self, job: _Job, items: Sequence[_Item]) -> list[_Where]:
        """Where each item is for the member. What a node was given as an upload stays one."""
        uploads = [await self._upload(job, item) for item in items]
        mine = [item for item, upload in zip(items, uploads, strict=True) if upload is None]
        places = iter(await self._output_places(job, mine) if mine else ())
        return [next(places) if upload is None else upload for upload in uploads]

    async def _upload(self, job: _Job, item: _Item) -> _Where | None:
        if item.item.get("type") != "input":
            return None

        def find(files: FileUnit) -> _Where | None:
            written = (files.written_names(job.member, job.prompt_id) or {}).get(item.cloud_name)
            place = None if written is None else names.written_place(written)
            record = None if place is None else files.get(job.member, place)
            record = record or files.upload_named(job.member, item.cloud_name)
            if record is None:
                return None
            return _Where(record.place, files.assets.newest_at(job.member, record.place))

        return await self._library.files.read(find)

    async def _output_places(self, job: _Job, items: Sequence[_Item]) -> list[_Where]:
        given = self._given.get(job.key)
        sized = [_shows_size(job, item) for item in items]
        if given is None and any(sized):
            given = await self._library.files.read(lambda files: _given(files, job))
        matched = _match(items, given or [])
        if (settled := _settled(items, matched)) is not None:
            return settled
        sizes = [
            await self._size(job, item) if shown and name is None else (0, 0)
            for item, name, shown in zip(items, matched, sized, strict=True)
        ]
        places, records, kept = await self._library.files.write(
            lambda files: self._give(files, job, items, sizes)
        )
        self._namespace.written(records)
        self._given[job.key] = kept
        for record in records:
            self._library.fetch_ahead(record)
        return places

    def _give(
        self, files: FileUnit, job: _Job, items: Sequence[_Item], sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[_Where], list[FileRecord], list[Given]]:
        """Give names in a unit of work: the places, what was written, and all names of the node.

        Runs in a thread of the database's.
        """
        files.lock_names(job.member)
        given = _given(files, job)
        matched = _match(items, given)
        if (settled := _settled(items, matched)) is not None:
            return settled, [], given
        places: list[_Where] = []
        records: dict[Place, FileRecord] = {}
        assets: list[Asset] = []
        kept = [name for name in given if name not in matched][-MOST_GIVEN:]
        for item, name, size in zip(items, matched, sizes, strict=True):
            cloud_name = item.cloud_name
            hash_ = self._library.contents.hash_told(cloud_name)
            id_: str | None
            if name is None:
                place, id_ = self._free_place(files, job, item, size, records), str(uuid4())
                at, content = round(self._now() * 1e6), (hash_, None)
                asset = of_file(job.member, id_, place, at, content=content, job=job.prompt_id)
                assets.append(asset)
            else:
                place, id_ = Place(name.type, name.path), name.asset
                if not _is_better(cloud_name, name.cloud_name):
                    cloud_name = name.cloud_name
                else:
                    files.assets.learn(job.member, place, hash_, None)
            places.append(_Where(place, id_))
            kept.append(Given(item.key, item.position, cloud_name, place.type, place.path, id_))
            if name is None or cloud_name != name.cloud_name:
                records[place] = self._record(job, item, place, cloud_name)
        written = list(records.values())
        files.put(written)
        files.assets.add_many(assets)
        files.put_given(job.member, job.prompt_id, job.node_id, msgspec.json.encode(kept))
        return places, written, kept

    def _free_place(
        self,
        files: FileUnit,
        job: _Job,
        item: _Item,
        size: tuple[int, int],
        taken: Mapping[Place, object],
    ) -> Place:
        """The next name by ComfyUI's counter that nothing has yet."""
        type_ = names.output_type(item.item, job.node)
        subfolder, stem, tail = self._pattern(job, item, type_, size)
        folder = Place(type_, subfolder)
        number = files.next_number(job.member, folder, stem) if tail is not None else 0
        while True:
            if tail is not None:
                filename = names.counted(stem, number, tail)
            else:
                filename = names.numbered(stem, number) if number else stem
            place = Place(type_, posixpath.join(subfolder, filename))
            used = place in taken or files.get(job.member, place) is not None
            if not used and not files.has_folder(job.member, place):
                return place
            number += 1

    def _pattern(
        self, job: _Job, item: _Item, type_: str, size: tuple[int, int]
    ) -> tuple[str, str, str | None]:
        """Subfolder, stem and tail of the name; without a tail the stem is the whole name."""
        shown = _display_name(item)
        prefix = filename_prefix(job.node)
        ending = names.extension(item.cloud_name, item.key, job.node)
        tail: str | None = ending if item.key == "gifs" else f"_{ending}"
        if prefix is None:
            temporary = type_ == "temp"
            prefix = names.temp_stem(job.prompt_id, job.node_id) if temporary else "ComfyUI"
        expanded = names.expand(
            prefix, time.localtime(self._now()), width=size[0], height=size[1]
        ).replace("%batch_num%", str(item.position))
        subfolder, stem = names.split_prefix(expanded)
        stated = item.item.get("subfolder")
        if isinstance(stated, str) and stated:
            subfolder = names.resolve(type_, stated) or subfolder
        if shown is not None:
            folder, shown = posixpath.split(shown)
            subfolder = names.resolve(type_, folder) or subfolder
            stem, tail = names.split_counted(shown) or (shown, None)
        path = posixpath.join(subfolder, stem)
        if not names.is_storable(path) or len(stem.encode()) > names.NAME_MAX - 32:
            return "", "ComfyUI", f"_{ending}"
        return names.resolve(type_, subfolder) or "", stem.replace("\\", "/").split("/")[-1], tail

    def _record(self, job: _Job, item: _Item, place: Place, cloud_name: str) -> FileRecord:
        stated = item.item.get("type")
        return make_record(
            job.member,
            place,
            cloud_name=cloud_name,
            cloud_type=stated if stated in names.TYPES else place.type,
            modified=self._now(),
            account=job.account,
            job=job.prompt_id,
        )

    async def _size(self, job: _Job, item: _Item) -> tuple[int, int]:
        """Width and height of a picture, 0 and 0 if they cannot be known."""
        record = self._record(job, item, Place("output", "unnamed"), item.cloud_name)
        try:
            async with (
                asyncio.timeout(MEASURE_TIMEOUT),
                self._library.whole(record, ahead=True) as path,
            ):
                return await asyncio.to_thread(size_of, path)
        except (TimeoutError, LocalError, NotAPictureError):
            return 0, 0


def _given(files: FileUnit, job: _Job) -> list[Given]:
    """The names that the node's files were given before."""
    data = files.given(job.member, job.prompt_id, job.node_id)
    return [] if data is None else msgspec.json.decode(data, type=list[Given])


def _settled(items: Sequence[_Item], matched: Sequence[Given | None]) -> list[_Where] | None:
    """Where the items are, if each has a name and no better name for one was sent now."""
    places = [
        _Where(Place(name.type, name.path), name.asset)
        for item, name in zip(items, matched, strict=True)
        if name is not None and not _is_better(item.cloud_name, name.cloud_name)
    ]
    return places if len(places) == len(items) else None


def _match(items: Sequence[_Item], given: Sequence[Given]) -> list[Given | None]:
    """The name that each file has got already, if any.

    A file is known again by its cloud name. Where an event and the job's detail call the same
    file differently, it is known by its key and index, unless both names are hashes.
    """
    free = list(given)
    matched: list[Given | None] = [None] * len(items)

    def match(is_same: Callable[[_Item, Given], bool]) -> None:
        for number, item in enumerate(items):
            if matched[number] is None:
                matched[number] = next((name for name in free if is_same(item, name)), None)
                if (name := matched[number]) is not None:
                    free.remove(name)

    match(lambda item, name: item.cloud_name == name.cloud_name)
    match(
        lambda item, name: (
            (item.key, item.position) == (name.key, name.index)
            and not (hash_in(item.cloud_name) and hash_in(name.cloud_name))
        )
    )
    return matched


def _shows_size(job: _Job, item: _Item) -> bool:
    """Whether the name is to show the picture's size, which only the content can tell."""
    prefix = filename_prefix(job.node)
    return prefix is not None and names.needs_size(prefix) and _display_name(item) is None


def _is_better(new: str, old: str) -> bool:
    """Whether a cloud name should replace another one for the same file."""
    return new != old and (hash_in(new) is not None or hash_in(old) is None)


def _display_name(item: _Item) -> str | None:
    """The human name that the cloud tells: beside the hash, or in its place."""
    shown = item.item.get("display_name")
    if isinstance(shown, str) and shown and hash_in(shown) is None:
        return shown
    if hash_in(item.cloud_name) is None and names.split_counted(item.cloud_name):
        return item.cloud_name
    return None
