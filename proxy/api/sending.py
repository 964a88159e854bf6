"""Answers that are sent in pieces, as fast as the client reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from proxy.api.answer_headers import prepare
from proxy.api.bodies import JSON_TYPE
from proxy.api.holding import forget_frames
from proxy.files.contents import ContentBrokenError
from proxy.sharing.budget import MemoryLimitError

log = structlog.get_logger(__name__)


@asynccontextmanager
async def delivering(request: web.Request, response: web.StreamResponse) -> AsyncIterator[None]:
    """Begin an answer, and end it after the block, which writes its bytes.

    If the block fails or is cancelled the connection is aborted, so that the client does not take
    the answer for complete. A lost client is logged at the level debug.
    """
    try:
        await prepare(request, response)
        yield
        await response.write_eof()
    except (
        ContentBrokenError,
        MemoryLimitError,
        ConnectionError,
        asyncio.CancelledError,
    ) as error:
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
        if isinstance(error, ContentBrokenError):
            log.warning("content_truncated", reason=str(error))
        elif isinstance(error, MemoryLimitError):
            log.warning("answer_aborted", path=request.path, reason=error.message)
        else:
            log.debug("client_disconnected", path=request.path)
        forget_frames(error)


async def send_json(request: web.Request, pieces: AsyncIterator[bytes]) -> web.StreamResponse:
    """Send JSON in pieces. The first one is awaited before the headers are sent, so that its error
    can be answered."""
    first = await anext(pieces, b"")
    response = web.StreamResponse(headers={"Content-Type": JSON_TYPE})
    async with delivering(request, response):
        if request.method != "HEAD":
            await response.write(first)
            async for piece in pieces:
                await response.write(piece)
    return response
