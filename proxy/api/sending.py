"""Answers that are sent in pieces, as fast as the client reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import structlog
from aiohttp import web

from proxy.api.answer_headers import prepare
from proxy.api.bodies import JSON_TYPE, json
from proxy.api.holding import forget_frames, in_turn
from proxy.files.contents import ContentBrokenError
from proxy.sharing.budget import MemoryLimitError
from proxy.translate import codec

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Items of a list that are encoded at once.
ITEMS = 500


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


async def send_list(
    request: web.Request, items: Sequence[T], shown: Callable[[T], Any]
) -> web.StreamResponse:
    """Send what is `shown` of items as a JSON list. A long one is encoded in pieces, each in a turn
    of the request's owner."""
    if len(items) <= ITEMS:
        return json([shown(item) for item in items])
    return await send_json(request, _list_pieces(request, items, shown))


async def _list_pieces(
    request: web.Request, items: Sequence[T], shown: Callable[[T], Any]
) -> AsyncIterator[bytes]:
    def encode(start: int) -> bytes:
        return codec.dump_bytes([shown(item) for item in items[start : start + ITEMS]])

    for start in range(0, len(items), ITEMS):
        piece = await in_turn(request, partial(encode, start))
        yield (b", " if start else b"[") + piece[1:-1]
    yield b"]"
