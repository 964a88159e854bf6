"""`/view`: the bytes of a file or a picture made of it, and how they are sent.

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
from email.utils import formatdate
from functools import partial

import structlog
from aiohttp import ETag, web
from msgspec import Struct
from yarl import URL

from proxy.api import bodies
from proxy.api.authenticator import KEY_HEADER, TICKETED, authenticator_of, caller_of
from proxy.api.connections import admission_of, connection_of, member_of, of
from proxy.api.content import content_headers, filename_parameter
from proxy.api.middleware import prepare
from proxy.files.cache import read_at
from proxy.files.library import Content, ContentBrokenError
from proxy.files.pictures import conversion
from proxy.storage.files import FileRecord
from proxy.translate.names import UNKNOWN, hash_address, media_type, view_place

log = structlog.get_logger(__name__)


async def get_view(request: web.Request) -> web.StreamResponse:
    """A file by `filename`, `subfolder` and `type`; refusals have no body.

    A picture made of it has neither ETag nor ranges, as in ComfyUI.
    """
    query = request.query
    filename, type_ = query.get("filename"), None
    answer = await _archive(request)
    if answer is not None:
        return answer
    files = of(request).files
    if filename is not None and (hash_ := hash_address(filename)) is not None:
        record, filename, type_ = await _by_hash(request, hash_)
    else:
        place = view_place(filename, query.get("subfolder"), query.get("type"))
        if isinstance(place, int):
            return bodies.empty(place)
        filename = place.path.rpartition("/")[2]
        record = await files.find(member_of(request), place.type, place.subfolder, filename)
    if record is None:
        return bodies.empty(404)
    asked = "preview" in query or "channel" in query
    wanted = conversion(query.get("preview"), query.get("channel")) if asked else None
    if wanted is not None:
        picture = await files.convert(record, wanted)
        headers = content_headers(wanted.media_type, name=filename_parameter(record.filename))
        if request.method != "HEAD":
            _count(request, len(picture))
        return web.Response(body=picture, headers=headers)
    headers = content_headers(
        type_ or media_type(str(filename)),
        request.headers.get("Sec-Fetch-Dest"),
        name=filename_parameter(str(filename)),
    )
    return redirect(request) or await send_file(request, record, headers)


async def _archive(request: web.Request) -> web.StreamResponse | None:
    """The archive of an export, if the query names one."""
    query, assets = request.query, of(request).assets
    if assets is None or (query.get("type"), query.get("subfolder")) != ("temp", "exports"):
        return None
    found = await assets.exports.archive(member_of(request), query.get("filename", ""))
    if found is None:
        return None
    response = web.StreamResponse(
        headers={
            **content_headers("application/zip", name=filename_parameter(found.name)),
            "Content-Length": str(found.size),
        }
    )
    async with delivering(request, response):
        if request.method != "HEAD":
            async for piece in found.read():
                await response.write(piece)
            _count(request, found.size)
    return response


async def _by_hash(
    request: web.Request, hash_: str
) -> tuple[FileRecord | None, str | None, str | None]:
    """The member's file of a content with the name and the type of its newest record."""
    assets = of(request).assets
    asset = None if assets is None else await assets.newest_of(member_of(request), hash_)
    if asset is None:
        return None, None, None
    file = await of(request).files.namespace.get(asset.member, asset.place)
    return file, asset.name, asset.media_type or UNKNOWN


async def send_file(
    request: web.Request, record: FileRecord, headers: dict[str, str]
) -> web.StreamResponse:
    """A file's bytes, or the part that is asked for, with these headers."""
    if record.size is not None and record.cloud_type == "input":  # what is served as it is
        stamp = Stamp(record.size, record.modified)
        part = without_body(request, stamp, headers)
        if isinstance(part, web.Response):
            return part
    content = await of(request).files.open(record)
    try:
        status, start, stop = 200, 0, None
        if content.size is not None:
            tag = content.edits.tag if content.edits.edits else ""
            stamp = Stamp(content.size, record.modified, tag)
            part = without_body(request, stamp, headers)
            if isinstance(part, web.Response):
                return part
            headers = {**headers, **stamped(stamp, part)}
            status, start, stop = part.status, part.start, part.stop
        response = web.StreamResponse(status=status, headers=headers)
        if request.method != "HEAD":
            _count(request, await send(request, response, content, start, stop))
        return response
    finally:
        content.close()


def _count(request: web.Request, sent: int) -> None:
    of(request).accounting.served(member_of(request), sent)


# --- conditions and ranges ------------------------------------------------------------------------


class Stamp(Struct, frozen=True):
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


class Part(Struct, frozen=True):
    """What to answer: the status (200, 206, 304, 412 or 416), and the bytes before `stop`."""

    status: int
    start: int = 0
    stop: int = 0


def decide(request: web.BaseRequest, stamp: Stamp) -> Part:
    """Weigh the conditions of a request for a file, then its range."""
    if not _is_expected(request, stamp):
        return Part(412)
    if _has_it(request, stamp):
        return Part(304)
    if_range = request.if_range
    if if_range is not None and stamp.modified > if_range.timestamp():
        return Part(200, stop=stamp.size)
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
        return Part(200, stop=size)
    if start < 0:
        start, stop = max(0, size + start), None
    if start >= size:
        return Part(416)
    return Part(206, start, size if stop is None else min(stop, size))


def _matches(etag: str, listed: Iterable[ETag], *, weak: bool) -> bool:
    return any(
        one.value == "*" or (one.value == etag and (weak or not one.is_weak)) for one in listed
    )


def without_body(
    request: web.Request, stamp: Stamp, headers: dict[str, str]
) -> web.Response | Part:
    """The answer if it needs none of the file's bytes, or the part of them that it needs."""
    part = decide(request, stamp)
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
            return part


def stamped(stamp: Stamp, part: Part) -> dict[str, str]:
    """The headers that tell the version of a file and which part of it is sent."""
    headers = {
        "Etag": f'"{stamp.etag}"',
        "Last-Modified": stamp.last_modified,
        "Content-Length": str(part.stop - part.start),
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
    caller, base = caller_of(request), of(request).options.base_path
    token = admission_of(request).token
    address = request.rel_url.with_path(TICKETED, keep_query=True).without_query_params("token")
    if token is not None:
        address = authenticator_of(request).tickets.add(address, token)
    address = URL(f"{caller.scheme}://{caller.host}{base}{address}")
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
    except (ContentBrokenError, ConnectionError, asyncio.CancelledError) as error:
        if request.transport is not None:
            request.transport.abort()
        if isinstance(error, asyncio.CancelledError):
            raise
        if isinstance(error, ContentBrokenError):
            log.warning("content_truncated", reason=str(error))
        else:
            log.debug("client_disconnected", path=request.path)


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
