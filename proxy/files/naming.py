"""New names for the outputs of a node, which are given in several units of work."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from proxy.files.content_index import ContentIndex
from proxy.files.given_names import (
    GivenName,
    display_name,
    first_free,
    is_better,
    matching_names,
)
from proxy.files.namespace import make_record
from proxy.runtime import clock, randomness
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileUnit
from proxy.translate import names, output_files
from proxy.translate.assets import Asset, of_file
from proxy.translate.jobs import filename_prefix
from proxy.translate.names import Place
from proxy.translate.output_files import OutputItem, OutputNode

#: Maximum number of names that a node keeps of previous runs under the same `prompt_id`.
MAX_GIVEN = 1000
#: Maximum number of files that get their names in one unit of work.
MAX_NAMED = 64


class Present(NamedTuple):
    """Names on the disk that begin as a stem does, and the highest number that they count to."""

    names: frozenset[str]
    last_number: int


_NOTHING = Present(frozenset(), 0)


class OutputNaming:
    """The names of the files of a node's output. `give` is called in units of work until it
    `is_complete`.

    `sizes` are those of the pictures, and `present` by subfolder and stem the files on the disk
    that the names may meet. `names` are all names of the node, those of the items last.
    """

    def __init__(
        self,
        node: OutputNode,
        items: Sequence[OutputItem],
        sizes: Sequence[tuple[int, int]],
        present: Mapping[tuple[str, str], Present],
        contents: ContentIndex,
    ) -> None:
        self._node = node
        self._items = items
        self._sizes = sizes
        self._present = present
        self._contents = contents
        #: What the last unit has written, and which names that are.
        self._stored: bytes | None = None
        self._others: list[GivenName] = []
        self._named: list[GivenName | None] = []
        #: The last number of each folder and stem, and whether it is a counter.
        self._numbers: dict[tuple[Place, str, bool], int] = {}
        self._done = 0
        self.names: list[GivenName] = []

    @property
    def is_complete(self) -> bool:
        """Whether all files have names."""
        return self._stored is not None and self._done == len(self._items)

    def give(self, files: FileUnit) -> list[FileRecord]:
        """Give names to at most `MAX_NAMED` files in a unit of work: what was written.

        Runs in a thread of the database's.
        """
        node = self._node
        files.lock_names(node.member)
        self._read(files)
        records: dict[Place, FileRecord] = {}
        assets: list[Asset] = []
        while self._done < len(self._items) and len(records) < MAX_NAMED:
            item, name = self._items[self._done], self._named[self._done]
            cloud_name, hash_ = item.cloud_name, self._contents.hash_by_name(item.cloud_name)
            if name is None:
                place = self._free_place(files, item, self._sizes[self._done], records)
                assets.append(self._asset(place, hash_))
                id_: str | None = assets[-1].id
            else:
                place, id_ = Place(name.type, name.path), name.asset
                if is_better(cloud_name, name.cloud_name):
                    files.assets.learn(node.member, place, hash_, None)
                else:
                    cloud_name = name.cloud_name
            if name is None or cloud_name != name.cloud_name:
                records[place] = output_record(node, item, place, cloud_name)
            self._named[self._done] = GivenName(
                item.key, item.position, cloud_name, place.type, place.path, id_
            )
            self._done += 1
        written = list(records.values())
        files.put(written)
        files.assets.add_many(assets)
        self.names = [*self._others, *(name for name in self._named if name is not None)]
        self._stored = msgspec.json.encode(self.names)
        files.put_given(node.member, node.prompt_id, node.id, self._stored)
        return written

    def _read(self, files: FileUnit) -> None:
        """Read the names that there are, unless they are those of the last unit."""
        node = self._node
        stored = files.given(node.member, node.prompt_id, node.id)
        if stored is not None and stored == self._stored:
            return
        given = _decoded(stored)
        self._named, self._numbers, self._done = matching_names(self._items, given), {}, 0
        known = set(self._named)
        self._others = [name for name in given if name not in known][-MAX_GIVEN:]

    def _asset(self, place: Place, hash_: str | None) -> Asset:
        node, at = self._node, clock.microseconds()
        id_ = str(randomness.uuid4())
        return of_file(node.member, id_, place, at, content=(hash_, None), job=node.prompt_id)

    def _free_place(
        self,
        files: FileUnit,
        item: OutputItem,
        size: tuple[int, int],
        given: Mapping[Place, object],
    ) -> Place:
        """Return the next free name by ComfyUI's counter, beside those that were `given` in this
        unit."""
        node = self._node
        type_ = output_files.output_type(item.item, node.in_graph)
        subfolder, stem, tail = name_pattern(node, item, type_, size)
        present = self._present if type_ == "output" else {}
        on_disk = present.get((subfolder, stem), _NOTHING)

        def place_of(number: int) -> Place:
            if tail is not None:
                filename = names.counted(stem, number, tail)
            else:
                filename = names.numbered(stem, number) if number else stem
            return Place(type_, posixpath.join(subfolder, filename))

        def is_free(number: int) -> bool:
            place = place_of(number)
            used = posixpath.basename(place.path) in on_disk.names or place in given
            return not used and not files.is_taken(node.member, place)

        folder = Place(type_, subfolder)
        first = self._numbers.get((folder, stem, False), -1) + 1
        if tail is not None:
            first = self._next_counter(files, folder, stem, on_disk.last_number)
            if first > names.MAX_COUNTER:  # it goes on below the last number
                stem = names.counted(stem, names.MAX_COUNTER, "")
                first = self._next_counter(files, folder, stem, 0)
        number = first_free(first, is_free)
        self._numbers[folder, stem, tail is not None] = number
        return place_of(number)

    def _next_counter(self, files: FileUnit, folder: Place, stem: str, on_disk: int) -> int:
        """Return the counter of the next name; `on_disk` is the highest one of a name there."""
        last = self._numbers.get((folder, stem, True))
        if last is not None:
            return last + 1
        return max(files.next_number(self._node.member, folder, stem), on_disk + 1)


def name_pattern(
    node: OutputNode, item: OutputItem, type_: str, size: tuple[int, int]
) -> tuple[str, str, str | None]:
    """Return subfolder, stem and tail of a name; without a tail the stem is the whole name."""
    shown = display_name(item)
    prefix = filename_prefix(node.in_graph)
    ending = output_files.extension(item.cloud_name, item.key, node.in_graph)
    tail: str | None = ending if item.key == "gifs" else f"_{ending}"
    if prefix is None:
        temporary = type_ == "temp"
        prefix = names.temp_stem(node.prompt_id, node.id) if temporary else "ComfyUI"
    expanded = names.expand(
        prefix, time.localtime(clock.time()), width=size[0], height=size[1]
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


def output_record(node: OutputNode, item: OutputItem, place: Place, cloud_name: str) -> FileRecord:
    """Return the record of an output."""
    stated = item.item.get("type")
    return make_record(
        node.member,
        place,
        cloud_name=cloud_name,
        cloud_type=stated if stated in names.TYPES else place.type,
        modified=clock.time(),
        account=node.account,
        job=node.prompt_id,
    )


def names_of(files: FileUnit, node: OutputNode) -> list[GivenName]:
    """Return the names that the node's files have."""
    return _decoded(files.given(node.member, node.prompt_id, node.id))


def _decoded(stored: bytes | None) -> list[GivenName]:
    return [] if stored is None else msgspec.json.decode(stored, type=list[GivenName])
