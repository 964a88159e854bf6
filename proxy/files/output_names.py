"""The names of outputs of jobs, which never change."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from cachetools import LRUCache

from proxy.files.disk_folder import DiskFolder
from proxy.files.given_names import GivenName, display_name, known_names, matching_names
from proxy.files.library import Library
from proxy.files.namespace import Namespace
from proxy.files.naming import OutputNaming, Present, name_pattern, names_of, output_record
from proxy.files.pictures import PictureWorkers
from proxy.storage.files import FileUnit
from proxy.translate import names, output_files
from proxy.translate.errors import LocalError
from proxy.translate.jobs import filename_prefix
from proxy.translate.names import Place, hash_address
from proxy.translate.output_files import OutputItem, OutputNode

_log = structlog.get_logger(__name__)

#: Maximum number of nodes whose names are cached.
MAX_NODES = 4096
#: Maximum seconds to wait for a picture whose name contains its size.
MEASURE_TIMEOUT = 20.0
#: Maximum seconds to wait for the names of files in the output directory.
PRESENT_TIMEOUT = 5.0


@dataclass(eq=False)
class Outputs:
    """Gives names to outputs, and stores them.

    Names of files in `_folder`, where outputs are written, are not given.
    """

    _library: Library
    _namespace: Namespace
    _workers: PictureWorkers
    _folder: DiskFolder | None

    def __post_init__(self) -> None:
        self._given: LRUCache[tuple[str, str, str], list[GivenName]] = LRUCache(MAX_NODES)

    async def localise(self, node: OutputNode, output: Mapping[str, Any]) -> dict[str, Any]:
        """Return a node's output in local form, always the same for the same files.

        A file keeps its first name, whether the cloud's event or the job's detail came first. The
        names of many files are given in several units, so that readers may see the first of them
        before the others. Raises `StorageError`; what was named then has the same name next time.
        """
        shaped = output_files.with_core_keys(output) if "video" in output else output
        items = list(output_files.files(shaped))
        local = {
            key: [*value] if isinstance(value, list) else value for key, value in shaped.items()
        }
        for item in items:
            local[item.key][item.position] = output_files.own_fields(item.item)
        local = await self._namespace.revealed(node.member, local, node.prompt_id, any_words=False)
        if not items:
            return local
        has_uploads = any(item.item.get("type") == "input" for item in items)
        given = await (self._names_with_uploads if has_uploads else self._names)(node, items)
        for item, name in zip(items, given, strict=True):
            subfolder, filename = posixpath.split(name.path)
            local[item.key][item.position] = {
                "filename": filename,
                "subfolder": subfolder,
                "type": name.type,
                **local[item.key][item.position],
            }
            if name.asset:
                local[item.key][item.position] |= output_files.asset_ids(name.path, name.asset)
        return local

    async def _names_with_uploads(
        self, node: OutputNode, items: Sequence[OutputItem]
    ) -> list[GivenName]:
        """Return the member's name of each item. An upload that a node passes on stays one."""
        uploads = [await self._upload(node, item) for item in items]
        mine = [item for item, upload in zip(items, uploads, strict=True) if upload is None]
        given = iter(await self._names(node, mine) if mine else ())
        return [next(given) if upload is None else upload for upload in uploads]

    async def _upload(self, node: OutputNode, item: OutputItem) -> GivenName | None:
        """Return the member's name of an upload, `None` for another file."""
        if item.item.get("type") != "input":
            return None

        def find(files: FileUnit) -> GivenName | None:
            written = (files.written_names(node.member, node.prompt_id) or {}).get(item.cloud_name)
            place = (written and self._namespace.written_place(node.member, written)) or None
            record = None if place is None else files.get(node.member, place)
            if record is None and place is not None and hash_address(place.path) is None:
                asset = None  # in the input directory
            else:
                record = record or files.upload_named(node.member, item.cloud_name)
                if record is None:
                    return None
                place = record.place
                asset = files.assets.newest_at(node.member, place)
            return GivenName(
                item.key, item.position, item.cloud_name, place.type, place.path, asset
            )

        return await self._library.files.read(find)

    async def _names(self, node: OutputNode, items: Sequence[OutputItem]) -> list[GivenName]:
        """Return the names of a node's outputs; new ones are stored, and downloaded ahead."""
        key = node.member, node.prompt_id, node.id
        given = self._given.get(key)
        if given is not None and (known := known_names(items, given)) is not None:
            return known
        sizes = [(0, 0)] * len(items)
        prefix = filename_prefix(node.in_graph)
        if prefix is not None and names.needs_size(prefix):
            sizes = await self._sizes(node, items, given)
        present: dict[tuple[str, str], Present] = {}
        if self._folder is not None:
            present = await self._present(self._folder, node, items, sizes)
        naming = OutputNaming(node, items, sizes, present, self._library.contents)
        while not naming.is_complete:
            records = await self._library.files.write(naming.give)
            self._namespace.written(records)
            for record in records:
                self._library.fetch_ahead(record)
        self._given[key] = naming.names
        return naming.names[-len(items) :]

    async def _present(
        self,
        folder: DiskFolder,
        node: OutputNode,
        items: Sequence[OutputItem],
        sizes: Sequence[tuple[int, int]],
    ) -> dict[tuple[str, str], Present]:
        """Return by subfolder and stem the files on the disk that names of outputs may meet."""
        wanted = dict.fromkeys(
            name_pattern(node, item, "output", size)[:2]
            for item, size in zip(items, sizes, strict=True)
            if output_files.output_type(item.item, node.in_graph) == "output"
        )
        try:
            async with asyncio.timeout(PRESENT_TIMEOUT):
                return await folder.run(_find_present, folder, node.member, wanted)
        except OSError as error:  # a timeout is one
            _log.warning("output_names_failed", reason=error.strerror or "timeout")
            return {}

    async def _sizes(
        self, node: OutputNode, items: Sequence[OutputItem], given: Sequence[GivenName] | None
    ) -> list[tuple[int, int]]:
        """Return width and height of the pictures that get a name by them, of others 0 and 0."""
        if given is None:
            given = await self._library.files.read(lambda files: names_of(files, node))
        return [
            (0, 0) if name or display_name(item) else await self._size(node, item)
            for item, name in zip(items, matching_names(items, given), strict=True)
        ]

    async def _size(self, node: OutputNode, item: OutputItem) -> tuple[int, int]:
        """Return width and height of a picture, 0 and 0 if they are unknown."""
        record = output_record(node, item, Place("output", "unnamed"), item.cloud_name)
        try:
            async with asyncio.timeout(MEASURE_TIMEOUT):
                lease = await self._library.whole(record, ahead=True)
                header = await self._workers.header(node.member, lease.path)
        except (TimeoutError, LocalError):
            header = None
        return (0, 0) if header is None else (header.width or 0, header.height or 0)


def _find_present(
    folder: DiskFolder, member: str, wanted: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Present]:
    """Read the folders of the wanted subfolders and stems. Raises `OSError`; blocks."""
    stems: dict[str, list[str]] = {}
    for subfolder, stem in wanted:
        stems.setdefault(subfolder, []).append(stem)
    found = {}
    for subfolder, some in stems.items():
        starts = tuple(posixpath.splitext(stem)[0] for stem in some)
        present = folder.names(member, subfolder, starts)
        numbers = dict.fromkeys(some, 0)
        for name in present:
            for stem, number in names.counters(name):
                if stem in numbers:
                    numbers[stem] = max(numbers[stem], number)
        found.update({(subfolder, stem): Present(present, numbers[stem]) for stem in some})
    return found
