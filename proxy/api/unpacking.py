"""Decompression of request bodies while they are read, in pieces or as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.compression_utils import BrotliDecompressor, ZLibDecompressor, ZSTDDecompressor
from aiohttp.http_exceptions import HttpProcessingError

from proxy.runtime.waits import stop
from proxy.translate.errors import LocalError

#: Maximum bytes of a decompressed piece; other tasks run between two pieces.
PIECE = 256 * 1024

#: Errors of aiohttp for an incomplete body.
BROKEN = (aiohttp.ClientPayloadError, web.RequestPayloadError, HttpProcessingError)

#: The codings; one whose package is not installed raises `RuntimeError`.
_DECOMPRESSORS: dict[
    str, Callable[[], ZLibDecompressor | BrotliDecompressor | ZSTDDecompressor]
] = {
    "gzip": partial(ZLibDecompressor, encoding="gzip"),
    "deflate": partial(ZLibDecompressor, encoding="deflate"),
    "br": BrotliDecompressor,
    "zstd": ZSTDDecompressor,
}


class PackedWronglyError(LocalError):
    """Raised for a body that is not in the coding of its headers."""

    def __init__(self) -> None:
        super().__init__(
            "invalid_content_encoding",
            "The request body does not match its Content-Encoding and Transfer-Encoding; send the "
            "complete body in that encoding.",
        )


@asynccontextmanager
async def unpacked(request: web.Request) -> AsyncIterator[aiohttp.StreamReader]:
    """Yield the body as a stream that is decompressed as fast as it is read.

    The stream raises `LocalError` for an invalid coding.
    """
    if coding_of(request) is None:
        yield request.content
        return
    loop = asyncio.get_running_loop()
    valve = _Valve(loop)
    stream = aiohttp.StreamReader(valve, PIECE, loop=loop)
    feeding = asyncio.create_task(_feed(stream, valve, request), name="unpack a body")
    try:
        yield stream
    finally:
        await stop(feeding)


class _Valve(BaseProtocol):
    """Represents the connection of a stream: pauses its input while the reader has enough."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.connection_made(asyncio.Transport())
        self.open = asyncio.Event()
        self.open.set()

    def pause_reading(self) -> None:
        """Pause the input."""
        self.open.clear()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Resume the input."""
        self.open.set()


async def _feed(stream: aiohttp.StreamReader, valve: _Valve, request: web.Request) -> None:
    try:
        async with aclosing(pieces(request, request.client_max_size)) as unpacked_pieces:
            async for piece in unpacked_pieces:
                stream.feed_data(piece)
                await valve.open.wait()
        stream.feed_eof()
    except BROKEN:
        stream.set_exception(PackedWronglyError())
    except (LocalError, web.HTTPException, OSError) as error:
        stream.set_exception(error)


async def pieces(request: web.Request, max_size: int) -> AsyncGenerator[bytes]:
    """Yield the decompressed body in pieces of up to about `PIECE` bytes.

    Raises the errors of `BROKEN` for an incomplete body, `PackedWronglyError`, and
    `HTTPRequestEntityTooLarge` if it is too large before decompression.
    """
    coding, received = coding_of(request), 0
    try:
        decompressor = None if coding is None else _DECOMPRESSORS[coding]()
    except RuntimeError:
        raise PackedWronglyError from None
    async for packed in request.content.iter_any():
        received += len(packed)
        if 0 < max_size < received:
            raise web.HTTPRequestEntityTooLarge(max_size)
        if decompressor is None:
            yield packed
            continue
        if received == len(packed) and coding == "deflate" and packed[:1] and packed[0] & 0xF != 8:
            # RFC 1951 without the header of RFC 1950, as some clients send it.
            decompressor = ZLibDecompressor(encoding=coding, suppress_deflate_header=True)
        while True:
            try:
                piece = decompressor.decompress_sync(packed, max_length=PIECE)
            except Exception as error:  # each codec has its own
                raise PackedWronglyError from error
            packed = b""
            if piece:
                yield piece
                await asyncio.sleep(0)
            if not decompressor.data_available:
                break
    if received and coding == "deflate" and not getattr(decompressor, "eof", True):
        raise PackedWronglyError


def coding_of(request: web.Request) -> str | None:
    """Return the coding of the body, `None` for an unknown one, as in aiohttp."""
    coding = request.headers.get("Content-Encoding", "").lower()
    return coding if coding in _DECOMPRESSORS else None
