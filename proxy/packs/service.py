"""Helper nodes at run time: the pictures that they load, the results that they tell.

Everything belongs to one member. Pictures lie in the storage until a job uses them; then they are
files of the member, below `temp/helpers`, and go where the job goes. What is in memory on the way
is counted in the budget; files that a graph loads go over the disk.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from proxy.budget import Allocation, MemoryBudget, MemoryLimitError
from proxy.catalog.service import Catalog
from proxy.files.cache import hash_file
from proxy.files.service import Files
from proxy.packs import pictures
from proxy.packs.nodes import (
    FileSource,
    Helper,
    HelperFailedError,
    Item,
    Mask,
    Picture,
    Result,
    constant,
    refusal,
)
from proxy.packs.pictures import Decoded
from proxy.packs.remote import NotFetchedError, RemoteFiles
from proxy.packs.rewriting import Rewriting, failed, rewrite, wanted
from proxy.packs.table import HELPERS
from proxy.packs.turns import Turns
from proxy.storage.temporary import HelperPicture, HelperPictureRepository
from proxy.translate import names
from proxy.translate.errors import LocalError
from proxy.translate.events import Told
from proxy.translate.jobs import is_link

log = structlog.get_logger(__name__)

#: Bytes of one file from an address, which is the cloud's limit of an upload, and of all pictures
#: of a member that are kept.
MAX_FILE_BYTES, MAX_MEMBER_BYTES = 50 * 1024 * 1024, 512 * 1024 * 1024
#: Files that one graph may load, and those of a member that are loaded at once.
MAX_GRAPH_FILES, MAX_CONCURRENT_FILES = 200, 4

#: Seconds that a result waits for memory that others hold, and between two attempts.
_MEMORY_TIMEOUT, _MEMORY_INTERVAL = 30.0, 0.25

_CHUNK = 256 * 1024
_FOLDER = "helpers"


class _Load(NamedTuple):
    """A file that nodes load: the same one for all that say the same."""

    source: FileSource
    mask: Mask
    kind: str
    value: str


@dataclass(eq=False)
class Helpers:
    """The helper nodes of all members."""

    _repository: HelperPictureRepository
    _files: Files
    _catalog: Catalog
    _remote: RemoteFiles
    _budget: MemoryBudget

    def __post_init__(self) -> None:
        self._file_turns = Turns(MAX_CONCURRENT_FILES)
        #: Of what is wholly in memory on its way from or to the database, one at a time.
        self._memory_turns = Turns(1)

    # --- pictures of clients ---------------------------------------------------------------

    async def knows(self, member: str, id_: str) -> bool:
        """Return whether there is a picture under the id. Raises `StorageError`."""
        return await self._repository.size(member, id_) is not None

    async def put(self, member: str, id_: str, data: bytes, content_type: str) -> bool:
        """Keep a picture; return false if the id is known, whose picture stays.

        Raises `LocalError` (too large) when the member keeps too much, `StorageError`.
        """
        picture = HelperPicture(member, id_, content_type, _now(), len(data), data)
        async with self._memory_turns.of(member):
            put = await self._repository.put(picture, most=MAX_MEMBER_BYTES)
        if put is None:
            raise LocalError(
                "too_many_pictures",
                f"Your stored pictures have more than {MAX_MEMBER_BYTES} bytes; "
                "try again in a few minutes, when old ones have expired.",
                kind="too_large",
            )
        return put

    @asynccontextmanager
    async def opened(
        self, member: str, id_: str, *, use: bool = False
    ) -> AsyncIterator[tuple[bytes, str] | None]:
        """Give a picture or result and its media type, `None` for an unknown id.

        It counts in the budget until the end of the block; `use` keeps it young. Raises
        `LocalError` for a result that the cloud does not hand out and beyond the budget,
        `HelperFailedError`, `StorageError`.
        """
        with self._budget.member(member, "picture") as held:
            async with self._memory_turns.of(member):
                size = await self._repository.size(member, id_)
                found = None
                if size is not None:
                    held.grow(size)
                    found = await self._repository.get(member, id_, now=_now(), use=use)
            if found is None:
                yield None
            elif found.data is not None:
                yield found.data, found.content_type
            else:
                item = {"filename": found.cloud_name, "type": found.cloud_type}
                yield (
                    await self._result_bytes(
                        member, item, found.encoding, held, account=found.account or ""
                    ),
                    found.content_type,
                )

    # --- graphs on their way to the cloud --------------------------------------------------

    async def rewrite(
        self, member: str, graph: Mapping[str, Any], outputs: Collection[str] | None
    ) -> Rewriting:
        """Return what the cloud is to run instead of a graph with helper nodes.

        `outputs` are the output nodes that run, `None` for all. A node that fails before the run
        is the `failure` of the answer. Raises `LocalError` (400) where the proxy cannot do what a
        node asks for, or the cloud does not take its picture.
        """
        emulated = self._catalog.emulated
        helpers = wanted(graph, outputs, emulated)
        loads = {
            node_id: _load(node_id, graph, helper)
            for node_id, helper in helpers.items()
            if helper.reads is not None
        }
        if len(set(loads.values())) > MAX_GRAPH_FILES:
            node_id = next(iter(loads))
            reason = f"the nodes of one workflow may load at most {MAX_GRAPH_FILES} files"
            raise refusal(node_id, graph, loads[node_id].source, reason)
        found = await self._load_all(member, dict.fromkeys(loads.values()))
        pictures: dict[str, Picture] = {}
        for node_id, load in loads.items():
            match found[load]:
                case HelperFailedError() as error:
                    return Rewriting(graph={}, failure=failed(node_id, graph, error))
                case Picture() as picture:
                    pictures[node_id] = picture
        return rewrite(graph, outputs, emulated, pictures, self._catalog.known)

    async def _load_all(
        self, member: str, loads: Iterable[_Load]
    ) -> dict[_Load, Picture | HelperFailedError]:
        """Send the files that nodes load, a few at once; the first other error ends the rest."""
        found: dict[_Load, Picture | HelperFailedError] = {}

        async def send(load: _Load) -> None:
            try:
                async with self._file_turns.of(member):
                    found[load] = await self._picture(member, load)
            except HelperFailedError as error:
                found[load] = error

        try:
            async with asyncio.TaskGroup() as group:
                for load in loads:
                    group.create_task(send(load))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return found

    async def _picture(self, member: str, load: _Load) -> Picture:
        """Get a file and send it. Raises `HelperFailedError`, `LocalError`, `StorageError`."""
        async with AsyncExitStack() as stack:
            partial_file = self._files.uploads.partial
            source = await stack.enter_async_context(partial_file())
            await self._receive(member, load, source)
            if load.kind != "image":
                extension = await asyncio.to_thread(_extension, source)
                return Picture(await self._sent(member, source, extension))
            converted = await stack.enter_async_context(partial_file())
            mask = await stack.enter_async_context(partial_file())
            decoded = await self._decoded(member, source, load.mask, converted, mask)
            name = await self._sent(member, decoded.path, decoded.extension)
            mask_name = None
            if decoded.mask is not None:
                mask_name = await self._sent(member, decoded.mask, ".png")
            return Picture(name, mask_name, decoded.width, decoded.height)

    async def _receive(self, member: str, load: _Load, target: Path) -> None:
        """Write the file that a node loads to `target`."""
        match load.source:
            case "cache":
                async with self.opened(member, load.value, use=True) as found:
                    if found is None:
                        message = f"Image with ID {load.value} not found in cache."
                        raise HelperFailedError("ValueError", message)
                    await asyncio.to_thread(target.write_bytes, found[0])
            case "base64":
                with self._budget.member(member, "picture") as held:
                    async with self._memory_turns.of(member):
                        held.grow(len(load.value) * 3 // 4)
                        await asyncio.to_thread(_write_base64, load.value, target)
            case "url":
                try:
                    await self._remote.fetch(load.value, target)
                except NotFetchedError as error:
                    message = f"{load.value} cannot be loaded: {error}."
                    raise HelperFailedError("ValueError", message) from error

    async def _decoded(
        self, member: str, source: Path, mask: Mask, converted: Path, converted_mask: Path
    ) -> Decoded:
        run = self._files.picture_workers.run
        pixels = await run(member, 0, partial(pictures.pixels, source))
        return await run(
            member, pixels, partial(pictures.decode, source, mask, converted, converted_mask)
        )

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

    # --- results on their way back ---------------------------------------------------------

    async def cached(
        self, member: str, rewriting: Rewriting, types: Mapping[str, str], nodes: Iterable[str]
    ) -> list[str]:
        """Which of the nodes that the cloud had cached are cached for the member as well.

        The cloud does not know nodes apart that differ in what the proxy does alone. Raises
        `StorageError`.
        """
        asked = list(nodes)
        telling = {node: rewriting.tells[node] for node in asked if node in rewriting.tells}
        if not telling:
            return asked
        told = await self._repository.results(member, {one.signature for one in telling.values()})
        known = {one.signature for one in told}
        return [
            node
            for node in asked
            if node not in telling
            or (telling[node].signature in known and not _tells_again(types.get(node, "")))
        ]

    async def told(
        self,
        member: str,
        prompt_id: str,
        node_id: str,
        helper: Helper,
        rewriting: Rewriting,
        output: Mapping[str, Any],
        *,
        account: str,
    ) -> Told:
        """Return the messages to the client about a node's result on an account; it can be
        fetched by then.

        Raises `HelperFailedError`, also for a result beyond the member's share of the budget,
        `LocalError` when the cloud does not hand a file out, `StorageError`.
        """
        telling, tells = rewriting.tells[node_id], helper.tells
        assert tells is not None  # noqa: S101
        format_ = tells.encoding(telling.inputs)
        content_type = f"image/{(format_ or 'webp').lower()}"
        items = [item for _, _, item in names.files(names.with_core_keys(output))]
        before = {
            (one.cloud_name, one.encoding, one.position): one.id
            for one in await self._repository.results(member, [telling.signature])
        }
        kept, shown = [], []
        with self._budget.member(member, "picture") as held:
            for position, item in enumerate(items):
                data = await self._result_bytes(
                    member, item, format_, held, account=account, waits=True
                )
                size = len(data)
                if not tells.carries:
                    data = b""
                    held.release()
                name = str(item["filename"])
                id_ = before.get((name, format_, position)) or uuid.uuid4().hex
                shown.append(Item(id_, data, content_type))
                kept.append(
                    HelperPicture(
                        member,
                        id_,
                        content_type,
                        _now(),
                        size,
                        account=account,
                        cloud_name=name,
                        cloud_type=str(item.get("type") or "output"),
                        encoding=format_,
                        signature=telling.signature,
                        position=position,
                    )
                )
        await self._repository.keep_results(telling.signature, kept)
        texts = output.get("text")
        told = tuple(map(str, texts)) if isinstance(texts, list | tuple) else ()
        return tells.told(Result(prompt_id, node_id, telling.inputs, tuple(shown), told))

    async def _result_bytes(
        self,
        member: str,
        item: Mapping[str, Any],
        format_: str | None,
        held: Allocation,
        *,
        account: str,
        waits: bool = False,
    ) -> bytes:
        """Return a file of an account as its client wants it, counted in `held`.

        With `waits` it waits a while for memory that others hold.
        """
        async with (
            self._files.output(member, item, account=account) as source,
            self._files.uploads.partial() as target,
        ):
            path = source
            if format_ is not None:
                run, path = self._files.picture_workers.run, target
                pixels = await run(member, 0, partial(pictures.pixels, source))
                await run(member, pixels, partial(pictures.encode, source, format_, target))
            size = (await asyncio.to_thread(path.stat)).st_size
            await _grow(held, size, waits=waits)
            return await asyncio.to_thread(path.read_bytes)


async def _grow(held: Allocation, size: int, *, waits: bool) -> None:
    """Hold more bytes, with `waits` when others have given back theirs.

    Raises `HelperFailedError` if they can never be held, `MemoryLimitError` if not in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + (_MEMORY_TIMEOUT if waits else 0.0)
    while True:
        try:
            held.grow(size)
        except MemoryLimitError as error:
            if not error.is_passing:
                raise HelperFailedError("MemoryError", error.message) from error
            if loop.time() >= deadline:
                raise
            await asyncio.sleep(_MEMORY_INTERVAL)
        else:
            return


def _now() -> int:
    return int(time.time() * 1000)


def helper_of(node: object) -> Helper | None:
    """The helper of a node of a graph, if it has one."""
    return HELPERS.get(str(node.get("class_type"))) if isinstance(node, Mapping) else None


def _tells_again(class_type: str) -> bool:
    helper = HELPERS.get(class_type)
    return helper is not None and helper.tells is not None and helper.tells.again


def _load(node_id: str, graph: Mapping[str, Any], helper: Helper) -> _Load:
    """What a node loads. Raises `LocalError` (400) where only the run would tell."""
    reads = helper.reads
    assert reads is not None  # noqa: S101
    inputs = graph[node_id].get("inputs") or {}
    value = constant(graph, inputs.get(reads.input, ""))
    if is_link(value):
        reason = "it must be known before the run: use a text, or a link to a node with a text"
        raise refusal(node_id, graph, reads.input, reason)
    return _Load(reads.source, reads.mask, reads.kind, str(value))


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
