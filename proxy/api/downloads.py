"""A file's bytes on their way to a client: which part is asked for, and how it is sent.

The rules are those of aiohttp's file answers, and so ComfyUI's: `If-Range` looks at dates alone (an
entity tag there counts as absent), and a range that cannot be read is not satisfiable.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial

import structlog
from aiohttp import ETag, web
from yarl import URL

from proxy.api.authenticator import KEY_HEADER, TICKETED
from proxy.api.connections import admission_of, authenticator_of, caller_of, connection_of
from proxy.api.middleware import prepare
from proxy.files.cache import read_at
from proxy.files.library import Content, ContentBrokenError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stamp:
    """A version of a file: its length in bytes and when it was written (seconds since 1970).

    `tag` tells versions of the same length and time apart.
    """

    size: int
    modified: float
    tag: str = ""

    @property
    def etag(self) -> str:
        """The entity tag without quotes, in the form that aiohttp gives to a file on disk."""
        tag = f"{int(self.modified * 1e9):x}-{self.size:x}"
        return f"{tag}-{self.tag}" if self.tag else tag

    @property
    def last_modified(self) -> str:
        """The value of `Last-Modified`."""
        return formatdate(math.ceil(self.modified), usegmt=True)


@dataclass(frozen=True, slots=True)
class Part:
    """What to answer: the status (200, 206, 304, 412 or 416) and `count` bytes from `start`."""

    status: int
    start: int = 0
    count: int = 0

    @property
    def stop(self) -> int:
        """The first byte that is no longer sent."""
        return self.start + self.count


def decide(request: web.BaseRequest, stamp: Stamp) -> Part:
    """Weigh the conditions of a request for a file, then its range."""
    if not _is_expected(request, stamp):
        return Part(412)
    if _has_it(request, stamp):
        return Part(304)
    if_range = request.if_range
    if if_range is not None and stamp.modified > if_range.timestamp():
        return Part(200, count=stamp.size)
    return _range(request, stamp.size)


def _is_expected(request: web.BaseRequest, stamp: Stamp) -> bool:
    """`If-Match`, or without it `If-Unmodified-Since`."""
    if request.if_match is not None:
        return _matches(stamp.etag, request.if_match, weak=False)
    since = request.if_unmodified_since
    return since is None or stamp.modified <= since.timestamp()


def _has_it(request: web.BaseRequest, stamp: Stamp) -> bool:
    """`If-None-Match`, or without it `If-Modified-Since`."""
    if request.if_none_match is not None:
        return _matches(stamp.etag, request.if_none_match, weak=True)
    since = request.if_modified_since
    return since is not None and stamp.modified <= since.timestamp()


def _range(request: web.BaseRequest, size: int) -> Part:
    try:
        wanted = request.http_range
    except ValueError:
        return Part(416)
    start, stop = wanted.start, wanted.stop
    if start is None:
        return Part(200, count=size)
    if start < 0:
        start, stop = max(0, size + start), None
    if start >= size:
        return Part(416)
    return Part(206, start, min(size if stop is None else stop, size) - start)


def _matches(etag: str, listed: Iterable[ETag], *, weak: bool) -> bool:
    return any(
        one.value == "*" or (one.value == etag and (weak or not one.is_weak)) for one in listed
    )


def without_body(
    request: web.Request, stamp: Stamp, part: Part, headers: dict[str, str]
) -> web.Response | None:
    """The answer, if it needs none of the file's bytes."""
    match part.status:
        case 304:
            kept = ("Content-Disposition", "Etag", "Last-Modified")
            known = {**headers, **stamped(stamp, part)}
            return web.Response(status=304, headers={name: known[name] for name in kept})
        case 412:
            return web.Response(status=412, headers=headers)
        case 416:
            unsatisfied = {"Content-Range": f"bytes */{stamp.size}"}
            return web.Response(status=416, headers={**headers, **unsatisfied})
        case _ if request.method == "HEAD":
            return web.Response(status=part.status, headers={**headers, **stamped(stamp, part)})
        case _:
            return None


def stamped(stamp: Stamp, part: Part) -> dict[str, str]:
    """The headers that tell the version of a file and which part of it is sent."""
    headers = {
        "Etag": f'"{stamp.etag}"',
        "Last-Modified": stamp.last_modified,
        "Content-Length": str(part.count),
        "Accept-Ranges": "bytes",
    }
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{stamp.size}"
    return headers


#: Bytes handed to the system at once; others have their turn between two pieces.
PIECE = 4 * 1024 * 1024
#: Seconds between two looks whether a client that takes nothing is still there.
PATIENCE = 1.0
#: Bytes read at once where the event loop cannot hand the file to the kernel.
CHUNK = 1024 * 1024


def redirect(request: web.Request) -> web.Response | None:
    """The cloud's answer to `GET /api/view`, if the program that asks was written for the cloud.

    By the cloud's documentation such programs send `X-API-Key`, insist on a 302 and fetch the
    address that it names without the key. Here it is that of `/view`, which never redirects; it
    is a whole URL, since programs take it as it is, and with members it has a ticket.
    """
    if KEY_HEADER not in request.headers or request.path != "/api/view":
        return None
    authenticator, caller = authenticator_of(request), caller_of(request)
    token = admission_of(request).token
    address = request.rel_url.with_path(TICKETED, keep_query=True).without_query_params("token")
    if token is not None:
        address = authenticator.tickets.add(address, token)
    address = URL(f"{caller.scheme}://{caller.host}{authenticator.base_path}{address}")
    return web.Response(status=302, headers={"Location": str(address)})


async def send(
    request: web.Request,
    response: web.StreamResponse,
    content: Content,
    start: int,
    stop: int | None,
) -> int:
    """Answer with the bytes from `start` to `stop` (excluded; the end if `None`); their number.

    Parts of the file are handed to the kernel as they arrive, unless the answer is chunked.
    """
    sent = 0
    if stop is None:
        async with delivering(request, response):
            async for chunk in content.read(start):
                await response.write(chunk)
                sent += len(chunk)
        return sent
    with _corked(request) as uncork:
        async with delivering(request, response):
            async for piece in content.pieces(start, stop):
                if isinstance(piece, bytes):
                    await response.write(piece)
                else:
                    begin, end = piece
                    await _send_file(request, response, content.file, begin, end - begin)
                uncork()
    return stop - start


@contextmanager
def _corked(request: web.Request) -> Iterator[Callable[[], None]]:
    """Headers wait for the bytes behind them, so that a client is woken once; what ends that.

    The system itself ends it after 0.2 seconds.
    """
    transport = request.transport
    if sys.platform != "linux" or transport is None or transport.is_closing():
        yield lambda: None
        return
    descriptor = os.dup(transport.get_extra_info("socket").fileno())
    with socket.socket(fileno=descriptor) as connected:
        set_cork = partial(connected.setsockopt, socket.IPPROTO_TCP, socket.TCP_CORK)
        set_cork(1)
        try:
            yield partial(set_cork, 0)
        finally:
            set_cork(0)


@asynccontextmanager
async def delivering(request: web.Request, response: web.StreamResponse) -> AsyncIterator[None]:
    """Begin an answer, and end it behind the block, which writes its bytes.

    When it breaks off or is cancelled the connection is cut, so that the client does not take it
    for whole; a client that leaves ends it quietly.
    """
    try:
        await prepare(request, response)
        yield
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


async def _send_file(
    request: web.Request, response: web.StreamResponse, descriptor: int, start: int, count: int
) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    loop = asyncio.get_running_loop()
    if await _is_flushed(request, response, transport):
        await _sendfile(request, transport, descriptor, start, count)
        return
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            await loop.sendfile(transport, file, start, count)
    except NotImplementedError:
        while count > 0:
            chunk = await asyncio.to_thread(read_at, descriptor, min(CHUNK, count), start)
            if not chunk:
                raise ContentBrokenError("the file on disk is shorter than it was") from None
            start, count = start + len(chunk), count - len(chunk)
            await response.write(chunk)


async def _is_flushed(
    request: web.Request, response: web.StreamResponse, transport: asyncio.Transport
) -> bool:
    """Whether the system has all that was written, so that it may be handed a file behind it.

    uvloop has no `sendfile` of its own; it writes at the end of a round of the loop.
    """
    if sys.platform != "linux" or transport.get_extra_info("sslcontext") is not None:
        return False
    writer = await response.prepare(request)
    if writer is None:
        return False
    writer.send_headers()
    for _ in range(2):
        if transport.get_write_buffer_size() == 0:
            break
        await asyncio.sleep(0)
    return transport.get_write_buffer_size() == 0


async def _sendfile(
    request: web.Request, transport: asyncio.Transport, file: int, start: int, count: int
) -> None:
    """Hand a file to the system, as fast as the client takes it.

    What is not in the system's memory is read in a thread. While the client takes
    nothing the connection counts as stalled.
    """
    connection = connection_of(request)
    connected = os.dup(transport.get_extra_info("socket").fileno())
    try:
        quick = _is_in_memory(file, start) and _is_in_memory(file, start + count - 1)
        while count > 0:
            if transport.is_closing():
                raise ConnectionResetError("the client has left")
            try:
                sent = await _hand_over(connected, file, start, min(count, PIECE), quick=quick)
            except BlockingIOError:
                connection.pause_writing()
                await _writable(connected)
                connection.resume_writing()
                continue
            if sent == 0:
                raise ContentBrokenError("the file on disk is shorter than it was")
            start, count = start + sent, count - sent
            if count > 0 and sent == PIECE:
                await asyncio.sleep(0)
    finally:
        os.close(connected)


async def _hand_over(connected: int, file: int, start: int, count: int, *, quick: bool) -> int:
    """How many bytes the system has taken. Raises `BlockingIOError` when it takes none."""
    if sys.platform == "win32":  # `_is_flushed` has said no
        raise NotImplementedError
    if quick:
        return os.sendfile(connected, file, start, count)
    loop = asyncio.get_running_loop()
    working = loop.run_in_executor(None, os.sendfile, connected, file, start, count)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:  # the descriptors are in use until it is done
        await asyncio.wait([working])
        raise


def _is_in_memory(file: int, offset: int) -> bool:
    """Whether a byte of a file can be read without a disk; the system may not tell."""
    if sys.platform != "linux":
        return False
    try:
        return os.preadv(file, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


async def _writable(connected: int) -> None:
    """Wait for the client to take something, at most `PATIENCE` seconds."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(connected, ready.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ready.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_writer(connected)
