"""Request bodies, unpacked as they are read: in pieces, or as a stream."""

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

from proxy.translate.errors import LocalError

#: Bytes unpacked at once; the event loop has a turn between two pieces.
PIECE = 256 * 1024

#: What aiohttp raises of a body that breaks off.
BROKEN = (aiohttp.ClientPayloadError, web.RequestPayloadError, HttpProcessingError)

#: Those whose package is not installed raise `RuntimeError`.
_DECOMPRESSORS: dict[
    str, Callable[[], ZLibDecompressor | BrotliDecompressor | ZSTDDecompressor]
] = {
    "gzip": partial(ZLibDecompressor, encoding="gzip"),
    "deflate": partial(ZLibDecompressor, encoding="deflate"),
    "br": BrotliDecompressor,
    "zstd": ZSTDDecompressor,
}


class PackedWronglyError(LocalError):
    """The body is not in the encoding that its headers name."""

    def __init__(self) -> None:
        super().__init__(
            "invalid_content_encoding",
            "The request body does not match its Content-Encoding and Transfer-Encoding; send the "
            "complete body in that encoding.",
        )


@asynccontextmanager
async def unpacked(request: web.Request) -> AsyncIterator[aiohttp.StreamReader]:
    """Give the body as a stream, unpacked as fast as it is read, for what reads in small steps.

    What is wrong with the packing is raised by the stream, as `LocalError`.
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
        feeding.cancel()
        await asyncio.wait([feeding])


class _Valve(BaseProtocol):
    """Stands for the connection that feeds a stream: stops it while its reader has enough."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.connection_made(asyncio.Transport())
        self.open = asyncio.Event()
        self.open.set()

    def pause_reading(self) -> None:
        """Stop what feeds."""
        self.open.clear()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Let it feed."""
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
    """Give the body, unpacked, in pieces of about `PIECE` bytes at most.

    Raises what aiohttp raises of a body that breaks off, `PackedWronglyError`, and
    `HTTPRequestEntityTooLarge` for what is too large before it is unpacked.
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
            # Not RFC 1950 but bare RFC 1951, as some clients send it.
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
    """Return the coding of the body; one that nobody here knows counts as none, as in aiohttp."""
    coding = request.headers.get("Content-Encoding", "").lower()
    return coding if coding in _DECOMPRESSORS else None
