"""Helper nodes at run time: the pictures that they load, the results that they tell.

Everything belongs to one member. Pictures lie in the storage until a job uses them; then they are
files of the member, below `temp/helpers`, and go where the job goes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from msgspec import Struct

from proxy.catalog.service import Catalog
from proxy.files.cache import new_hash
from proxy.files.pictures import FORMATS, MAX_PIXELS, pillow
from proxy.files.service import Files
from proxy.helpers.remote import NotFetchedError, RemoteFiles
from proxy.storage.temporary import HelperPicture, HelperPictureRepository
from proxy.translate import names
from proxy.translate.errors import LocalError
from proxy.translate.events import Told
from proxy.translate.helper_nodes import (
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
from proxy.translate.helper_packs import HELPERS
from proxy.translate.jobs import is_link
from proxy.translate.rewriting import Rewriting, failed, rewrite, wanted

if TYPE_CHECKING:
    from PIL.Image import Image

log = structlog.get_logger(__name__)

#: Bytes of one picture, which is the cloud's limit of an upload, and of all pictures of a member.
MOST_BYTES, MOST_BYTES_IN_ALL = 50 * 1024 * 1024, 512 * 1024 * 1024

#: Pictures that are decoded or encoded at once.
_AT_ONCE = 2

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

    def __post_init__(self) -> None:
        self._turn = asyncio.Semaphore(_AT_ONCE)

    # --- pictures of clients ---------------------------------------------------------------

    async def knows(self, member: str, id_: str) -> bool:
        """Whether there is a picture under the id. Raises `StorageError`."""
        return await self._repository.knows(member, id_)

    async def put(self, member: str, id_: str, data: bytes, content_type: str) -> bool:
        """Keep a picture; false if the id is known, whose picture stays.

        Raises `LocalError` (too large) when the member keeps too much, `StorageError`.
        """
        picture = HelperPicture(member, id_, content_type, _now(), len(data), data)
        put = await self._repository.put(picture, most=MOST_BYTES_IN_ALL)
        if put is None:
            raise LocalError(
                "too_many_pictures",
                f"Your stored pictures have more than {MOST_BYTES_IN_ALL} bytes; "
                "try again in a few minutes, when old ones have expired.",
                kind="too_large",
            )
        return put

    async def get(self, member: str, id_: str, *, use: bool = False) -> tuple[bytes, str] | None:
        """A picture or result and its media type; `use` keeps it young.

        Raises `LocalError` for a result that the cloud does not hand out, `StorageError`.
        """
        found = await self._repository.get(member, id_, now=_now(), use=use)
        if found is None:
            return None
        if found.data is not None:
            return found.data, found.content_type
        item = {"filename": found.cloud_name, "type": found.cloud_type}
        data = await self._files.output_bytes(member, item, account=found.account or "")
        return await self._encoded(data, found.encoding), found.content_type

    # --- graphs on their way to the cloud --------------------------------------------------

    async def rewrite(
        self, member: str, graph: Mapping[str, Any], outputs: Collection[str] | None
    ) -> Rewriting:
        """What the cloud is to run instead of a graph with helper nodes.

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
        files = dict.fromkeys(loads.values())
        got = await asyncio.gather(
            *(self._picture(member, load) for load in files), return_exceptions=True
        )
        found = dict(zip(files, got, strict=True))
        for problem in got:
            if isinstance(problem, BaseException) and not isinstance(problem, HelperFailedError):
                raise problem
        pictures: dict[str, Picture] = {}
        for node_id, load in loads.items():
            match found[load]:
                case HelperFailedError() as error:
                    return Rewriting(graph={}, failure=failed(node_id, graph, error))
                case Picture() as picture:
                    pictures[node_id] = picture
        return rewrite(graph, outputs, emulated, pictures, self._catalog.known)

    async def _picture(self, member: str, load: _Load) -> Picture:
        """Get a file and send it. Raises `HelperFailedError`, `LocalError`, `StorageError`."""
        data = await self._bytes(member, load)
        if load.kind != "image":
            return Picture(await self._sent(member, data, _extension(data)))
        async with self._turn:
            decoded = await asyncio.to_thread(decode, data, load.mask)
        sends = [self._sent(member, decoded.data, decoded.extension)]
        if decoded.mask is not None:
            sends.append(self._sent(member, decoded.mask, ".png"))
        name, *mask = await asyncio.gather(*sends)
        return Picture(name, mask[0] if mask else None, decoded.width, decoded.height)

    async def _bytes(self, member: str, load: _Load) -> bytes:
        match load.source:
            case "cache":
                found = await self.get(member, load.value, use=True)
                if found is None:
                    message = f"Image with ID {load.value} not found in cache."
                    raise HelperFailedError("ValueError", message)
                return found[0]
            case "base64":
                return await asyncio.to_thread(from_base64, load.value)
            case "url":
                try:
                    return await self._remote.fetch(load.value)
                except NotFetchedError as error:
                    message = f"{load.value} cannot be loaded: {error}."
                    raise HelperFailedError("ValueError", message) from error

    async def _sent(self, member: str, data: bytes, extension: str) -> str:
        """Send bytes as a file of the member, once; how a graph names it."""
        named = await self._files.upload(
            member,
            _chunks(data),
            filename=f"{new_hash(data).hexdigest(length=16)}{extension}",
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
        """The messages to the client about a node's result on an account; it can be fetched by
        then.

        Raises `HelperFailedError`, `LocalError` when the cloud does not hand a file out,
        `StorageError`.
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
        for position, item in enumerate(items):
            data = await self._files.output_bytes(member, item, account=account)
            data = await self._encoded(data, format_)
            name = str(item["filename"])
            id_ = before.get((name, format_, position)) or uuid.uuid4().hex
            shown.append(Item(id_, data, content_type))
            kept.append(
                HelperPicture(
                    member,
                    id_,
                    content_type,
                    _now(),
                    len(data),
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

    async def _encoded(self, data: bytes, format_: str | None) -> bytes:
        async with self._turn:
            return await asyncio.to_thread(encode, data, format_)


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


def _extension(data: bytes) -> str:
    found = (ending for first, at, ending in _MEDIA if data[at : at + len(first)] == first)
    return next(found, ".mp3" if data[:1] == b"\xff" else ".mp4")


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), _CHUNK):
        yield data[start : start + _CHUNK]


# --- decoded as packs do, and encoded as their clients want it ----------------------------------

#: Modes whose 8-bit values core's loader takes as they are.
_PLAIN = frozenset({"RGB", "RGBA", "L"})
_AS_THEY_ARE = frozenset({"PNG", "JPEG", "WEBP"})

_EXIF_ORIENTATION = 0x0112


class Decoded(Struct, frozen=True):
    """A picture for the cloud: its bytes with their extension, its mask as a grey PNG, its size."""

    data: bytes
    extension: str
    mask: bytes | None
    width: int
    height: int


def from_base64(text: str) -> bytes:
    """What a text holds; letters that are not of the alphabet are passed over.

    Raises `HelperFailedError`.
    """
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError) as error:
        raise HelperFailedError("binascii.Error", str(error)) from error


def decode(data: bytes, mask: Mask) -> Decoded:
    """A picture as a pack reads it, in a form that core's loaders read alike; takes a while.

    Raises `HelperFailedError` in the words of Pillow.
    """
    images = pillow()
    source = io.BytesIO(data)
    try:
        with images.open(source, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise HelperFailedError("ValueError", f"it has more than {MAX_PIXELS} pixels")
            picture.load()
            if mask is Mask.CORE:
                return Decoded(data, f".{(picture.format or 'png').lower()}", None, width, height)
            return _decoded(picture, data, mask)
    except images.UnidentifiedImageError as error:
        raise HelperFailedError("PIL.UnidentifiedImageError", str(error)) from error
    except images.DecompressionBombError as error:
        raise HelperFailedError("PIL.Image.DecompressionBombError", str(error)) from error
    except (OSError, ValueError, SyntaxError, OverflowError, TypeError, EOFError) as error:
        message = re.sub(r" \(\d+ bytes not processed\)$", "", str(error))
        raise HelperFailedError(type(error).__name__, message) from error


def _decoded(picture: Image, data: bytes, mask: Mask) -> Decoded:
    width, height = picture.size
    colours = _rgb(picture)
    plain = (
        picture.format in _AS_THEY_ARE
        and picture.mode in _PLAIN
        and getattr(picture, "n_frames", 1) == 1
        and picture.getexif().get(_EXIF_ORIENTATION, 1) == 1
        and "transparency" not in picture.info
    )
    shown = data if plain else encoded_as(colours, "PNG")
    extension = f".{(picture.format or '').lower()}" if plain else ".png"
    alpha = picture.getchannel("A") if "A" in picture.getbands() else None
    if mask is Mask.RED:
        alpha = None
    elif alpha is None and mask is Mask.ALPHA_OR_RED:
        alpha = colours.getchannel("R")
    grey = None if alpha is None else encoded_as(alpha, "PNG")
    return Decoded(shown, extension, grey, width, height)


def _rgb(picture: Image) -> Image:
    """The colours in 8 bits, without alpha; those below alpha 0 are kept."""
    if isinstance(picture.info.get("transparency"), bytes):
        picture = picture.convert("RGBA")
    if picture.mode.startswith("I"):
        picture = picture.convert("I").point(lambda level: level / 256).convert("L")
    return picture.convert("RGB")


def encode(data: bytes, format_: str | None) -> bytes:
    """A picture of the cloud in a format, without texts; `None` leaves the file as it is.

    Raises `HelperFailedError` in the words of Pillow.
    """
    if format_ is None:
        return data
    if format_ == "PNG" and (bare := without_texts(data)) is not None:
        return bare
    try:
        with pillow().open(io.BytesIO(data), formats=FORMATS) as picture:
            picture.load()
            return encoded_as(picture, format_)
    except KeyError as error:
        raise HelperFailedError("KeyError", str(error)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise HelperFailedError(type(error).__name__, str(error)) from error


def encoded_as(picture: Image, format_: str) -> bytes:
    """A picture in a format of Pillow's, JPEG with quality 95."""
    buffer = io.BytesIO()
    bare = pillow().frombytes(picture.mode, picture.size, picture.tobytes())
    bare.save(buffer, format=format_, quality=95, compress_level=1)
    return buffer.getvalue()


#: Bytes and pixels of a preview that is re-encoded on the way; a larger one is left out.
_PREVIEW_BYTES, _PREVIEW_PIXELS = 1 << 20, 1 << 22


def jpeg(png: bytes) -> bytes | None:
    """A preview as JPEG, `None` for one that is too large or no PNG; takes a while."""
    if len(png) > _PREVIEW_BYTES:
        return None
    images = pillow()
    try:
        with images.open(io.BytesIO(png), formats=("PNG",)) as picture:
            if picture.width * picture.height > _PREVIEW_PIXELS:
                return None
            return encoded_as(picture.convert("RGB"), "JPEG")
    except (images.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None


_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf"})


def without_texts(png: bytes) -> bytes | None:
    """A PNG without its texts, which hold the graph that ran; `None` for another file."""
    if not png.startswith(_PNG):
        return None
    pieces, at = [_PNG], len(_PNG)
    while at + 8 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] not in _TEXTS:
            pieces.append(png[at:end])
        at = end
    return b"".join(pieces)
