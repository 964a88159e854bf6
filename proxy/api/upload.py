"""`/upload/image` and `/upload/mask`: a client's files."""

from __future__ import annotations

import asyncio
import os
import re
import warnings
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    web,
)
from multidict import MultiDict

from proxy.api import bodies, request_bodies, unpacking
from proxy.api.holding import allocate
from proxy.api.keys import ACCOUNTING, FILES, SPOOL
from proxy.api.requests import member_of, token_of
from proxy.translate import codec
from proxy.translate.assets import of_upload
from proxy.translate.errors import LocalError
from proxy.translate.names import TYPES, upload_refusal

Field = str | bytes | bytearray | web.FileField
Buffer = bytes | bytearray | memoryview

# Python prints a warning once for each text, and remembers it: these repeat what clients send.
warnings.filterwarnings("ignore", category=BadContentDispositionHeader)
warnings.filterwarnings("ignore", category=BadContentDispositionParam)

#: Errors of reading an incomplete or invalid form.
_BROKEN_FORM = (ValueError, AssertionError, LookupError, RuntimeError, *unpacking.BROKEN)

#: Bytes of one read.
CHUNK = 256 * 1024
#: Approximate bytes of a form without its files.
FORM_BYTES = 16 * 1024
#: Maximum bytes and fields of a form without files, and of all fields that are not files.
MAX_FORM_BYTES, MAX_FORM_FIELDS = 64 * 1024, 100
MAX_FIELD_BYTES = 1024 * 1024
#: Maximum lines of a form outside of the contents of its parts: a thousand parts have 5,000.
MAX_LINES = 20_000
#: Maximum semicolons of the disposition of a part: reading it takes time that grows with the square
#: of their number. A name may have some.
MAX_PARAMETERS = 300
#: Maximum bytes of a file in memory; larger ones are spooled to disk.
MAX_IN_MEMORY = 1024 * 1024


async def post_image(request: web.Request) -> web.Response:
    """Store a file of any kind in the member's folder."""
    return await _receive(request)


async def post_mask(request: web.Request) -> web.Response:
    """Store a picture of the member with the alpha channel of the upload."""
    return await _receive(request, masks=True)


async def _receive(request: web.Request, *, masks: bool = False) -> web.Response:
    """Check the fields of an upload, and store it.

    As in ComfyUI, a missing file or a name that leads out of the folder is a 400 without a body.
    Raises `LocalError` (400) where ComfyUI answers 500. Only the texts `true` and `1` overwrite.
    """
    member = member_of(request)
    async with form(request) as fields:
        type_ = fields.get("type", "input")
        if not isinstance(type_, str) or type_ not in TYPES:
            raise LocalError("invalid_type", "type must be input, output or temp.")
        if "image" not in fields:
            return bodies.empty(400)
        image = fields["image"]
        if not isinstance(image, web.FileField):
            raise LocalError("invalid_image", "The field image must be a file with a filename.")
        subfolder = fields.get("subfolder", "")
        if not isinstance(subfolder, str):
            raise LocalError("invalid_subfolder", "subfolder must be text.")
        if upload_refusal(image.filename, subfolder, type_) is not None:
            return bodies.empty(400)
        original = original_ref(fields.get("original_ref")) if masks else None
        accounting, token = request.app[ACCOUNTING], token_of(request)
        async with accounting.uploading(member, size(image.file), token):
            named = await request.app[FILES].upload(
                member,
                chunks(image.file),
                filename=image.filename,
                subfolder=subfolder,
                type=type_,
                overwrite=fields.get("overwrite") in ("true", "1"),
                original=original,
            )
    body: dict[str, Any] = {"name": named.name, "subfolder": named.subfolder, "type": named.type}
    if named.asset is not None:
        body["asset"] = of_upload(named.asset)
    return bodies.json(body)


def original_ref(value: object) -> dict[str, Any]:
    """Return the picture that a mask belongs to. Raises `LocalError` (400)."""
    try:
        original = codec.loads(value) if isinstance(value, str) else None
    except ValueError:
        original = None
    if not isinstance(original, dict) or not isinstance(original.get("filename"), str):
        raise LocalError(
            "invalid_original_ref",
            "original_ref must be JSON that names the picture: "
            '{"filename": …, "subfolder": …, "type": …}.',
        )
    return original


@asynccontextmanager
async def form(request: web.Request) -> AsyncIterator[MultiDict[Field]]:
    """Yield the fields of a form; a body of another type is an empty form.

    Large files are spooled to disk. All are closed after the block, also those of an incomplete
    form, which aiohttp's own `request.post()` leaves to the garbage collector. Reading stops at the
    member's limit of the day. Raises `LocalError` (400, 429), and `HTTPRequestEntityTooLarge`.
    """
    limiter, member = request.app[ACCOUNTING].limiter, member_of(request)
    room = await limiter.upload_room(member)
    narrow = room is not None and room + FORM_BYTES < request.client_max_size
    if room is not None and narrow:
        request = request.clone(client_max_size=room + FORM_BYTES)
    with ExitStack() as files:
        try:
            fields = await _read_form(request, files)
        except web.HTTPRequestEntityTooLarge:
            if narrow:
                raise limiter.upload_refusal(member) from None
            raise
        except _BROKEN_FORM as error:
            raise LocalError(
                "invalid_form",
                "The request body is not complete multipart/form-data; send the whole form again.",
                details=str(error)[:200],
            ) from None
        yield fields


async def _read_form(request: web.Request, files: ExitStack) -> MultiDict[Field]:
    type_ = request_bodies.type_of(request)
    if type_ == "multipart/form-data":
        request_bodies.check_length(request)
        async with unpacking.unpacked(request) as body:
            return await _FormReader(request, body, files).read()
    if type_ == "application/x-www-form-urlencoded":
        text = (await request_bodies.read(request, MAX_FORM_BYTES)).decode()
        return MultiDict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS))
    return MultiDict()


class _Parts(aiohttp.MultipartReader):
    """The parts of a form. Refuses forms that no client sends and that take long to parse."""

    async def fetch_next_part(self) -> Any:
        """Return the next part. Raises `ValueError` for names in an unknown charset."""
        part = await super().fetch_next_part()
        disposition = part.headers.get("Content-Disposition", "")
        if disposition.count(";") > MAX_PARAMETERS:
            raise ValueError("The parts of the form have too many parameters.")
        for charset in _EXTENDED.findall(disposition):
            request_bodies.checked_charset(charset)
        if _CONTINUED.search(disposition):
            raise ValueError("The name of each part of the form must be one parameter.")
        return part


#: Parameters with a charset of their own, and those in several pieces (RFC 2231, 3 and 4).
_EXTENDED = re.compile(r"""\*\s*=\s*"?([^'";]*)'""")
_CONTINUED = re.compile(r""";\s*[\w-]{1,20}\*\d""")


class _Lines:
    """The body of a form for `_Parts`, with limited lines outside of the contents of parts."""

    def __init__(self, body: aiohttp.StreamReader) -> None:
        self.read, self.at_eof, self.unread_data = body.read, body.at_eof, body.unread_data
        self._readline = body.readline
        self._left = MAX_LINES

    async def readline(self, **options: Any) -> bytes:
        """Return the next line. Raises `ValueError` after too many."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("The form has too many lines outside of its parts.")
        return await self._readline(**options)


class _FormReader:
    """Reads one form: large files to disk, everything else into memory."""

    def __init__(self, request: web.Request, body: aiohttp.StreamReader, files: ExitStack) -> None:
        self._max_size = request.client_max_size
        self._max_fields = request.client_max_fields
        self._body, self._files = body, files
        self._memory = files.enter_context(allocate(request, "body"))
        self._spool = files.enter_context(request.app[SPOOL].share(member_of(request)))
        self._field_bytes = 0
        self._parts = _Parts(
            request.headers,
            cast("aiohttp.StreamReader", _Lines(body)),
            client_max_size=self._max_size,
            max_field_size=request.protocol.max_field_size,
            max_headers=request.protocol.max_headers,
            max_size_error_cls=web.HTTPRequestEntityTooLarge,
        )

    async def read(self) -> MultiDict[Field]:
        """Return the fields."""
        form: MultiDict[Field] = MultiDict()
        while (part := await self._parts.next()) is not None:
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise ValueError("Each part of the form must have a name.")
            if len(form) >= self._max_fields:
                raise ValueError(f"The form has more than {self._max_fields} fields.")
            form.add(part.name, await self._field(part))
            await asyncio.sleep(0)  # what has arrived may have very many parts
        return form

    async def _field(self, part: BodyPartReader) -> Field:
        kind = part.headers.get("Content-Type")
        if part.filename:
            file = await self._file(part)
            octets = kind or "application/octet-stream"
            return web.FileField(str(part.name), part.filename, file, octets, part.headers)
        value = bytearray()
        async for piece in self._pieces(part):
            self._field_bytes += len(piece)
            if self._field_bytes > MAX_FIELD_BYTES:
                raise ValueError(
                    f"The fields without files have more than {MAX_FIELD_BYTES} bytes."
                )
            self._memory.grow(len(piece))
            value += piece
        if not (kind or "text/").startswith("text/"):
            return bytes(value)
        return value.decode(request_bodies.checked_charset(part.get_charset("utf-8")))

    async def _file(self, part: BodyPartReader) -> IO[bytes]:
        """Return the content of a part, in memory if it is short."""
        file = self._files.enter_context(SpooledTemporaryFile(MAX_IN_MEMORY))  # noqa: SIM115
        in_memory = 0
        async for piece in self._pieces(part):
            if file.tell() + len(piece) > MAX_IN_MEMORY:
                self._spool.grow(in_memory + len(piece))
                self._memory.resize(self._memory.size - in_memory)
                in_memory = 0
                await asyncio.to_thread(file.write, piece)
            else:
                self._memory.grow(len(piece))
                in_memory += len(piece)
                file.write(piece)
        file.seek(0)
        return cast(IO[bytes], file)

    async def _pieces(self, part: BodyPartReader) -> AsyncIterator[Buffer]:
        while True:
            chunk = await part.read_chunk(CHUNK)
            if 0 < self._max_size < self._body.total_bytes:
                raise web.HTTPRequestEntityTooLarge(self._max_size)
            if not chunk:
                return
            async for piece in part.decode_iter(chunk):
                yield piece


def size(file: IO[bytes]) -> int:
    """Return the size of a file in bytes, and seek to its beginning."""
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    return length


async def chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield the bytes of a file, read in threads."""
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk
