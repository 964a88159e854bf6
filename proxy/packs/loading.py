"""The files that nodes of a graph load, on their way to the cloud.

They become files of the member, below `temp/helpers`, and go where the job goes. They pass over the
disk, a few of a member at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from proxy.files.cache import hash_file
from proxy.files.service import Files
from proxy.packs import pictures
from proxy.packs.nodes import (
    FileSource,
    Mask,
    PackFailure,
    PackNode,
    PackNodeError,
    Picture,
    constant,
    refusal,
)
from proxy.packs.remote import NotFetchedError, RemoteFiles
from proxy.packs.store import PictureStore
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.turns import Turns
from proxy.translate.jobs import is_link

#: Bytes of one file from an address, which is the cloud's limit of an upload.
MAX_FILE_BYTES = 50 * 1024 * 1024
#: Files that one graph may load, and those of a member that are loaded at once.
MAX_GRAPH_FILES, MAX_CONCURRENT_FILES = 200, 4

_CHUNK = 256 * 1024
_FOLDER = "helpers"


class Load(NamedTuple):
    """A file that nodes load: the same one for all whose inputs are the same."""

    source: FileSource
    mask: Mask
    kind: str
    value: str


def loads_of(graph: Mapping[str, Any], nodes: Mapping[str, PackNode]) -> dict[str, Load]:
    """Return what each node of a graph loads that loads a file.

    Raises `LocalError` (400) where only the run would tell, and for too many files.
    """
    loads = {
        node_id: _load(node_id, graph, node)
        for node_id, node in nodes.items()
        if node.reads is not None
    }
    if len(set(loads.values())) > MAX_GRAPH_FILES:
        node_id = next(iter(loads))
        reason = f"the nodes of one workflow may load at most {MAX_GRAPH_FILES} files"
        raise refusal(node_id, graph, loads[node_id].source, reason)
    return loads


def _load(node_id: str, graph: Mapping[str, Any], node: PackNode) -> Load:
    reads = node.reads
    assert reads is not None  # noqa: S101
    inputs = graph[node_id].get("inputs") or {}
    value = constant(graph, inputs.get(reads.input, ""))
    if is_link(value):
        reason = "it must be known before the run: use a text, or a link to a node with a text"
        raise refusal(node_id, graph, reads.input, reason)
    return Load(reads.source, reads.mask, reads.kind, str(value))


@dataclass(eq=False)
class FileLoader:
    """Sends the files that nodes load, from the store, from addresses and from texts."""

    _store: PictureStore
    _files: Files
    _remote: RemoteFiles
    _budget: MemoryBudget

    def __post_init__(self) -> None:
        self._turns = Turns(MAX_CONCURRENT_FILES)

    async def load_all(
        self, member: str, loads: Iterable[Load]
    ) -> dict[Load, Picture | PackFailure]:
        """Send the files that nodes load, a few at once.

        A node that fails has its `PackFailure`. Raises `LocalError`, `StorageError`: the first
        such error ends the others.
        """
        found: dict[Load, Picture | PackFailure] = {}

        async def send(load: Load) -> None:
            try:
                async with self._turns.hold(member):
                    found[load] = await self._picture(member, load)
            except PackNodeError as error:
                found[load] = PackFailure(error.exception_type, error.message)

        try:
            async with asyncio.TaskGroup() as group:
                for load in loads:
                    group.create_task(send(load))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return found

    async def _picture(self, member: str, load: Load) -> Picture:
        """Get a file and send it. Raises `PackNodeError`, `LocalError`, `StorageError`."""
        async with AsyncExitStack() as stack:
            partial_file = self._files.uploads.partial
            source = await stack.enter_async_context(partial_file())
            await self._receive(member, load, source)
            if load.kind != "image":
                extension = await asyncio.to_thread(_extension, source)
                return Picture(await self._sent(member, source, extension))
            converted = await stack.enter_async_context(partial_file())
            mask = await stack.enter_async_context(partial_file())
            decoded = await pictures.decode(self._files, member, source, load.mask, converted, mask)
            name = await self._sent(member, decoded.path, decoded.extension)
            mask_name = None
            if decoded.mask is not None:
                mask_name = await self._sent(member, decoded.mask, ".png")
            return Picture(name, mask_name, decoded.width, decoded.height)

    async def _receive(self, member: str, load: Load, target: Path) -> None:
        """Write the file that a node loads to `target`."""
        match load.source:
            case "cache":
                async with self._store.opened(member, load.value, use=True) as found:
                    if found is None:
                        message = f"Image with ID {load.value} not found in cache."
                        raise PackNodeError("ValueError", message)
                    await asyncio.to_thread(target.write_bytes, found[0])
            case "base64":
                with self._budget.member(member, "picture") as held:
                    async with self._store.memory_turns.hold(member):
                        held.grow(len(load.value) * 3 // 4)
                        await asyncio.to_thread(_write_base64, load.value, target)
            case "url":
                try:
                    await self._remote.fetch(load.value, target)
                except NotFetchedError as error:
                    message = f"{load.value} cannot be loaded: {error}."
                    raise PackNodeError("ValueError", message) from error

    async def _sent(self, member: str, path: Path, extension: str) -> str:
        """Send a file as one of the member, once; return how a graph names it."""
        hash_ = await asyncio.to_thread(hash_file, path)
        named = await self._files.upload(
            member,
            _chunks(path),
            filename=f"{hash_[:32]}{extension}",
            subfolder=_FOLDER,
            type="temp",
            overwrite=True,
        )
        return f"{_FOLDER}/{named.name} [temp]"


#: The first bytes of media, and the extensions by which the cloud knows them.
_MEDIA = (
    (b"fLaC", 0, ".flac"),
    (b"ID3", 0, ".mp3"),
    (b"OggS", 0, ".ogg"),
    (b"WAVE", 8, ".wav"),
    (b"\x1aE\xdf\xa3", 0, ".webm"),
    (b"ftyp", 4, ".mp4"),
)


def _extension(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(16)
    found = (ending for first, at, ending in _MEDIA if data[at : at + len(first)] == first)
    return next(found, ".mp3" if data[:1] == b"\xff" else ".mp4")


def _write_base64(text: str, target: Path) -> None:
    target.write_bytes(pictures.from_base64(text))


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while data := await asyncio.to_thread(file.read, _CHUNK):
            yield data
    finally:
        await asyncio.to_thread(file.close)
