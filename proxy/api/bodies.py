"""Request bodies: unpacked only when a handler reads them, JSON whatever their type, all bounded.

The server leaves a body packed (`auto_decompress=False`). Handlers run behind authentication, so an
anonymous body is never unpacked. Files of forms are spooled to disk and closed whatever happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from tempfile import SpooledTemporaryFile
from typing import IO, Any
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import BodyPartReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.compression_utils import (
    HAS_BROTLI,
    HAS_ZSTD,
    BrotliDecompressor,
    ZLibDecompressor,
    ZSTDDecompressor,
)
from aiohttp.http_exceptions import HttpProcessingError
from multidict import MultiDict

from proxy.api.connections import of
from proxy.translate import codec
from proxy.translate.errors import LocalError

#: How deep the JSON of a body may be nested; what walks through it takes a call for each level.
MOST_LEVELS = 300
#: Values of one body's JSON: 500,000 empty lists take 0.2 s; large workflows have 100,000.
MOST_VALUES = 500_000
#: Bytes of JSON beyond which it is parsed in a thread.
LARGE = 256 * 1024
#: Bytes unpacked at once; the event loop has a turn between two pieces.
PIECE = 256 * 1024

_CODINGS = ("gzip", "deflate", "br", "zstd")
_BROKEN = (aiohttp.ClientPayloadError, web.RequestPayloadError, HttpProcessingError)

Decompressor = ZLibDecompressor | ZSTDDecompressor | BrotliDecompressor


class NotJsonError(LocalError):
    """The body is empty or is not JSON."""

    def __init__(self, reason: str) -> None:
        super().__init__("invalid_json", "The request body must be valid JSON.", details=reason)


class _PackedWronglyError(LocalError):
    """The body is not in the encoding that its headers name."""

    def __init__(self) -> None:
        super().__init__(
            "invalid_content_encoding",
            "The request body does not match its Content-Encoding and Transfer-Encoding; send the "
            "complete body in that encoding.",
        )


def check_length(request: web.Request, most: int | None = None) -> None:
    """Refuse a body that says itself that it is too large, before it has been sent."""
    limit = request.client_max_size if most is None else most
    if limit and (request.content_length or 0) > limit:
        raise web.HTTPRequestEntityTooLarge(limit)


async def read(request: web.Request, most: int | None = None) -> bytes:
    """The whole body, unpacked: at most `most` bytes, or what the server allows for all requests.

    Raises `HTTPRequestEntityTooLarge` over the limit and `LocalError` when it cannot be unpacked.
    """
    limit = request.client_max_size if most is None else most
    check_length(request, limit)
    body = bytearray()
    try:
        async for piece in _pieces(request, limit):
            body += piece
            if 0 < limit < len(body):
                raise web.HTTPRequestEntityTooLarge(limit)
    except _BROKEN as error:
        raise _PackedWronglyError from error
    return bytes(body)


@asynccontextmanager
async def unpacked(request: web.Request) -> AsyncIterator[aiohttp.StreamReader]:
    """The body as a stream, unpacked as fast as it is read, for what reads in small steps.

    What is wrong with the packing is raised by the stream, as `LocalError`.
    """
    if _coding(request) is None:
        yield request.content
        return
    loop = asyncio.get_running_loop()
    valve = _Valve(loop)
    valve.transport = request.transport
    stream = aiohttp.StreamReader(valve, PIECE, loop=loop)
    pumping = asyncio.create_task(_pump(request, stream, valve), name="unpack a body")
    try:
        yield stream
    finally:
        pumping.cancel()
        with suppress(asyncio.CancelledError):
            await pumping


class _Valve(BaseProtocol):
    """What a stream pauses when nobody reads it."""

    __slots__ = ("open",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.open = asyncio.Event()
        self.open.set()

    def pause_reading(self) -> None:
        self._reading_paused = True
        self.open.clear()

    def resume_reading(self, resume_parser: bool = True) -> None:
        self._reading_paused = False
        self.open.set()


async def _pump(request: web.Request, stream: aiohttp.StreamReader, valve: _Valve) -> None:
    try:
        async for piece in _pieces(request, request.client_max_size):
            stream.feed_data(piece)
            await valve.open.wait()
        stream.feed_eof()
    except _BROKEN:
        stream.set_exception(_PackedWronglyError())
    except Exception as error:  # noqa: BLE001 (who reads the stream gets it)
        stream.set_exception(error)


async def _pieces(request: web.Request, most: int) -> AsyncIterator[bytes]:
    """The body, unpacked, in pieces of about `PIECE` bytes at most.

    Raises what aiohttp raises of a body that breaks off, `_PackedWronglyError`, and
    `HTTPRequestEntityTooLarge` for what is too large before it is unpacked.
    """
    decompressor, coding, received = _decompressor(request), _coding(request), 0
    async for packed in request.content.iter_any():
        received += len(packed)
        if 0 < most < received:
            raise web.HTTPRequestEntityTooLarge(most)
        if decompressor is None:
            yield packed
            continue
        if received == len(packed) and coding == "deflate" and packed[:1] and packed[0] & 0xF != 8:
            # Not RFC 1950 but bare RFC 1951, as some clients send it.
            decompressor = ZLibDecompressor(encoding=coding, suppress_deflate_header=True)
        while True:
            try:
                piece = decompressor.decompress_sync(packed, max_length=PIECE)
            except Exception as error:  # each codec has its own
                raise _PackedWronglyError from error
            packed = b""
            if piece:
                yield piece
                await asyncio.sleep(0)
            if not decompressor.data_available:
                break
    if received and coding == "deflate" and not getattr(decompressor, "eof", True):
        raise _PackedWronglyError


def _coding(request: web.Request) -> str | None:
    """The coding of the body; one that nobody here knows counts as none, as in aiohttp."""
    coding = request.headers.get("Content-Encoding", "").lower()
    return coding if coding in _CODINGS else None


def _decompressor(request: web.Request) -> Decompressor | None:
    match _coding(request):
        case None:
            return None
        case "br":
            if not HAS_BROTLI:
                raise _PackedWronglyError
            return BrotliDecompressor()
        case "zstd":
            if not HAS_ZSTD:
                raise _PackedWronglyError
            return ZSTDDecompressor()
        case coding:
            return ZLibDecompressor(encoding=coding)


def parse(body: bytes, charset: str | None = None) -> Any:
    """Decode JSON as ComfyUI does: by the charset (UTF-8 if none is named), NaN allowed.

    Raises `NotJsonError` for anything else and `LocalError` for bytes that are not of the charset.
    """
    try:
        text = body.decode(charset or "utf-8")
    except (UnicodeDecodeError, LookupError) as error:
        raise LocalError(
            "invalid_charset",
            f"The request body is not {charset or 'utf-8'} text; send JSON in UTF-8.",
        ) from error
    if not text:
        raise NotJsonError("The body is empty.")
    openings = text.count("[") + text.count("{")
    if openings + text.count(",") > MOST_VALUES:
        raise LocalError(
            "too_many_values",
            f"The JSON of the request body has more than {MOST_VALUES:,} values; send less at "
            "once, or upload the data as a file.",
            kind="too_large",
        )
    try:
        value = codec.loads(text)
    except ValueError as error:
        raise NotJsonError(str(error)) from None
    if openings > MOST_LEVELS and _is_deep(value):
        raise NotJsonError(f"The JSON is nested more than {MOST_LEVELS} levels deep.")
    return value


def _is_deep(value: Any) -> bool:
    """Whether a value is nested beyond `MOST_LEVELS`; walks level by level, without recursion."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


async def read_json(request: web.Request) -> Any:
    """The body as JSON; raises as `read` and `parse` do.

    Raises `LocalError` (413) for more bytes than the setting `max_json_mb` allows.
    """
    most, largest = of(request).max_json_bytes, request.client_max_size
    try:
        body = await read(request, min(most, largest))
    except web.HTTPRequestEntityTooLarge:
        if most >= largest:
            raise
        raise LocalError(
            "json_too_large",
            f"The JSON of the request body has more than {most:,} bytes; send less, or raise the "
            "setting `max_json_mb`.",
            kind="too_large",
        ) from None
    if len(body) <= LARGE:
        return parse(body, request.charset)
    return await asyncio.to_thread(parse, body, request.charset)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; an empty list counts as one without keys, as in ComfyUI."""
    value = await read_json(request)
    if value == []:
        return {}
    if not isinstance(value, dict):
        raise LocalError(
            "invalid_body", f"The request body must be a JSON object, not {kind(value)}."
        )
    return value


def kind(value: object) -> str:
    """What a JSON value is, for a sentence."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


Field = str | bytes | bytearray | web.FileField
Form = Mapping[str, Field]
Buffer = bytes | bytearray | memoryview

#: What reading raises of a body that is no whole form.
BROKEN_FORM = (
    ValueError,
    AssertionError,
    LookupError,
    RuntimeError,
    aiohttp.ClientPayloadError,
    web.RequestPayloadError,
    HttpProcessingError,
)

#: The largest form without files, in bytes, and its fields.
MOST_FORM_BYTES, MOST_FORM_FIELDS = 64 * 1024, 100
#: Bytes of a file that lie in memory; one that is longer lies on disk.
IN_MEMORY = 1024 * 1024
#: Bytes read at once.
CHUNK = 256 * 1024


@asynccontextmanager
async def read_form(request: web.Request) -> AsyncIterator[MultiDict[Field]]:
    """The fields of a request; what is no form is an empty one.

    The files are closed behind the block, and those of a form that breaks off at once: aiohttp's
    own `request.post()` leaves them to the garbage collector. Of fields with one name the first
    counts. Raises `HTTPRequestEntityTooLarge`, and `BROKEN_FORM` of what is no whole form.
    """
    if request.content_type == "multipart/form-data":
        with ExitStack() as files:
            async with unpacked(request) as body:
                yield await _fields(request, body, files)
    elif request.content_type in ("", "application/x-www-form-urlencoded"):
        text = (await read(request, MOST_FORM_BYTES)).decode()
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FORM_FIELDS)
        yield MultiDict[Field](fields)
    else:
        yield MultiDict[Field]()


async def _fields(
    request: web.Request, body: aiohttp.StreamReader, files: ExitStack
) -> MultiDict[Field]:
    form: MultiDict[Field] = MultiDict()
    most = request.client_max_size
    parts = aiohttp.MultipartReader(
        request.headers,
        body,
        client_max_size=most,
        max_field_size=request.protocol.max_field_size,
        max_headers=request.protocol.max_headers,
        max_size_error_cls=web.HTTPRequestEntityTooLarge,
    )
    while (part := await parts.next()) is not None:
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise ValueError("Each part of the form must have a name.")
        if len(form) >= request.client_max_fields:
            raise ValueError(f"The form has more than {request.client_max_fields} fields.")
        pieces = _pieces_of_part(body, part, most)
        if part.filename:
            file = files.enter_context(SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115
            async for piece in pieces:
                await _write(file, piece)
            file.seek(0)
            kind = part.headers.get("Content-Type", "application/octet-stream")
            field: Field = web.FileField(part.name, part.filename, file, kind, part.headers)
        else:
            value = b"".join([bytes(piece) async for piece in pieces])
            is_text = part.headers.get("Content-Type", "text/").startswith("text/")
            field = value.decode(part.get_charset("utf-8")) if is_text else value
        form.add(part.name, field)
    return form


async def _pieces_of_part(
    body: aiohttp.StreamReader, part: BodyPartReader, most: int
) -> AsyncIterator[Buffer]:
    while True:
        chunk = await part.read_chunk(CHUNK)
        if 0 < most < body.total_bytes:
            raise web.HTTPRequestEntityTooLarge(most)
        if not chunk:
            return
        async for piece in part.decode_iter(chunk):
            yield piece


async def _write(file: IO[bytes], piece: Buffer) -> None:
    if file.tell() + len(piece) > IN_MEMORY:
        await asyncio.to_thread(file.write, piece)
    else:
        file.write(piece)
