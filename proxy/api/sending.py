"""A file's bytes on their way to a client."""

from __future__ import annotations

import asyncio
from typing import BinaryIO

import structlog
from aiohttp import web

from proxy.api.middleware import prepare
from proxy.files.content import Content, ContentBrokenError

log = structlog.get_logger(__name__)

#: Bytes read at once where the event loop cannot hand the file to the kernel.
CHUNK = 1024 * 1024


async def send(
    request: web.Request,
    response: web.StreamResponse,
    content: Content,
    start: int,
    stop: int | None,
) -> int:
    """Answer with the bytes from `start` to `stop` (excluded; the end if `None`); their number.

    A complete file is handed to the kernel, one that is still arriving is passed on as it grows.
    When it breaks off or is cancelled the connection is cut, so that the client does not take it
    for whole; a client that leaves ends it quietly.
    """
    sent = 0
    try:
        await prepare(request, response)
        if content.path is not None and stop is not None:
            with content.path.open("rb") as file:
                for piece in content.edits.pieces(start, stop):
                    if isinstance(piece, bytes):
                        await response.write(piece)
                    elif piece.stop is not None:
                        count = piece.stop - piece.start
                        await _send_file(request, response, file, piece.start, count)
            sent = stop - start
        else:
            async for chunk in content.read(start, stop):
                await response.write(chunk)
                sent += len(chunk)
        await response.write_eof()
    except ContentBrokenError as error:
        log.warning("content_truncated", reason=str(error))
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        log.debug("client_disconnected", path=request.path)
        if request.transport is not None:
            request.transport.abort()
    except asyncio.CancelledError:
        if request.transport is not None:
            request.transport.abort()
        raise
    return sent


async def _send_file(
    request: web.Request, response: web.StreamResponse, file: BinaryIO, start: int, count: int
) -> None:
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the client has left")
    if count <= 0:
        return
    loop = asyncio.get_running_loop()
    try:
        await loop.sendfile(request.transport, file, start, count)
    except NotImplementedError:
        await asyncio.to_thread(file.seek, start)
        while count > 0:
            chunk = await asyncio.to_thread(file.read, min(CHUNK, count))
            if not chunk:
                raise ContentBrokenError("the file on disk is shorter than it was") from None
            count -= len(chunk)
            await response.write(chunk)
