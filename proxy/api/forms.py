"""Forms with files: read in any order, spooled to disk, and closed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import IO
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.api import bodies

Field = str | bytes | bytearray | web.FileField
Form = Mapping[str, Field]
Buffer = bytes | bytearray | memoryview

#: What reading raises of a body that is no whole form.
BROKEN = (
    ValueError,
    AssertionError,
    LookupError,
    RuntimeError,
    aiohttp.ClientPayloadError,
    web.RequestPayloadError,
    HttpProcessingError,
)

#: The largest form without files, in bytes, and its fields.
MOST_BYTES, MOST_FIELDS = 64 * 1024, 100
#: Bytes of a file that lie in memory; one that is longer lies on disk.
IN_MEMORY = 1024 * 1024
#: Bytes read at once.
CHUNK = 256 * 1024


@asynccontextmanager
async def reading(request: web.Request) -> AsyncIterator[Form]:
    """The fields of a request; what is no form is an empty one.

    The files are closed behind the block, and those of a form that breaks off at once: aiohttp's
    own `request.post()` leaves them to the garbage collector. Of fields with one name the first
    counts. Raises `HTTPRequestEntityTooLarge`, and `BROKEN` of what is no whole form.
    """
    if request.content_type == "multipart/form-data":
        with ExitStack() as files:
            async with bodies.unpacked(request) as body:
                yield await _fields(request, body, files)
    elif request.content_type in ("", "application/x-www-form-urlencoded"):
        text = (await bodies.read(request, MOST_BYTES)).decode()
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
        yield dict(reversed(fields))
    else:
        yield {}


async def _fields(request: web.Request, body: aiohttp.StreamReader, files: ExitStack) -> Form:
    form: dict[str, Field] = {}
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
            raise ValueError("Each part of the form must be a field with a name.")
        if len(form) >= request.client_max_fields:
            raise ValueError(f"The form has more than {request.client_max_fields} fields.")
        pieces = _pieces(body, part, most)
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
        form.setdefault(part.name, field)
    return form


async def _pieces(
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
