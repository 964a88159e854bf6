"""`/view`: the bytes of a file or of a picture made from it, with conditions and ranges.

The rules are those of aiohttp's file answers, and so ComfyUI's: `If-Range` supports dates only (an
entity tag counts as absent), and an invalid range is not satisfiable.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Iterable
from email.utils import formatdate
from hashlib import blake2b

import structlog
from aiohttp import ETag, web
from msgspec import Struct
from yarl import URL

from proxy.api import bodies
from proxy.api.authenticator import authenticator_of
from proxy.api.content import content_headers, filename_parameter
from proxy.api.credentials import KEY_HEADER
from proxy.api.holding import PIECE, UNCOUNTED, LargeBody
from proxy.api.keys import ACCOUNTING, ASSETS, FILES, OPTIONS
from proxy.api.requests import admission_of, member_of, site_of, token_of
from proxy.api.sending import delivering
from proxy.api.tickets import TICKETED
from proxy.files.cache import read_at
from proxy.files.contents import Content, ContentBrokenError
from proxy.files.conversions import conversion, small
from proxy.storage.file_tables import FileRecord
from proxy.translate.errors import LocalError
from proxy.translate.media_types import UNKNOWN
from proxy.translate.names import hash_address, view_place

log = structlog.get_logger(__name__)


async def get_view(request: web.Request) -> web.StreamResponse:
    """Send a file by `filename`, `subfolder` and `type`; errors have no body.

    A picture made from it has no ranges, as in ComfyUI.
    """
    query = request.query
    filename, type_ = query.get("filename"), None
    answer = await _archive(request)
    if answer is not None:
        return answer
    files = request.app[FILES]
    if filename is not None and (hash_ := hash_address(filename)) is not None:
        record, filename, type_ = await _by_hash(request, hash_)
    else:
        place = view_place(filename, query.get("subfolder"), query.get("type"))
        if isinstance(place, int):
            return bodies.empty(place)
        filename = place.path.rpartition("/")[2]
        record = await files.namespace.get(member_of(request), place)
    if record is None:
        return bodies.empty(404)
    shown = str(filename)
    answer = await _converted(request, record, shown)
    if answer is not None:
        return answer
    headers = content_headers(
        type_ or record.media_type,
        request.headers.get("Sec-Fetch-Dest"),
        name=filename_parameter(shown),
    )
    headers.setdefault("Cache-Control", _REVALIDATE)
    return redirect(request) or await send_file(request, record, headers)


#: Bytes written at once to a client that has taken all before them.
_MAX_PIECE = 4 * PIECE
#: A cache may store an answer, and must validate it for each request.
_REVALIDATE = "no-cache"


async def _converted(
    request: web.Request, record: FileRecord, filename: str
) -> web.Response | None:
    """Return the converted picture that the query asks for, `None` if it asks for the file.

    A file that cannot be made smaller is sent unchanged, and so is a picture that is too large for
    a preview; other conversions refuse it. If the client has the picture already, nothing is
    converted. Raises `LocalError`.
    """
    query = request.query
    if not ("res" in query or "preview" in query or "channel" in query):
        return None
    channel = query.get("channel")
    wanted = small(query.get("res"), filename) if channel is None else None
    is_small = wanted is not None
    if wanted is None and ("preview" in query or channel is not None):
        wanted = conversion(query.get("preview"), channel)
    if wanted is None:
        return None
    stated = filename if is_small else record.filename
    headers = content_headers(wanted.media_type, name=filename_parameter(stated))
    version = f"{record.account} {record.cloud_type} {record.cloud_name} {wanted.key}"
    digest = blake2b(version.encode("utf-8", "replace"), digest_size=12).hexdigest()
    tag = f"{int(record.modified * 1e9):x}-{digest}"
    headers |= {"Cache-Control": _REVALIDATE, "Etag": f'"{tag}"'}
    if request.if_none_match is not None and _matches(tag, request.if_none_match, weak=True):
        del headers["Content-Type"]
        return web.Response(status=304, headers=headers)
    try:
        picture = await request.app[FILES].convert(record, wanted)
    except LocalError as error:
        is_preview = channel is None and error.type == "image_too_large"
        if error.kind == "invalid" and (is_small or is_preview):
            return None
        raise
    if request.method != "HEAD":
        _count(request, len(picture))
    body = picture if len(picture) <= UNCOUNTED else LargeBody(picture)
    return web.Response(body=body, headers=headers)


async def _archive(request: web.Request) -> web.StreamResponse | None:
    """Send the archive of an export, or return `None` if the query names none."""
    query, assets = request.query, request.app[ASSETS]
    if (query.get("type"), query.get("subfolder")) != ("temp", "exports"):
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
    """Return the member's file of a content, with the name and the type of its newest record."""
    assets = request.app[ASSETS]
    asset = await assets.newest_of(member_of(request), hash_)
    if asset is None:
        return None, None, None
    file = await request.app[FILES].namespace.get(asset.member, asset.place)
    return file, asset.name, asset.media_type or UNKNOWN


async def send_file(
    request: web.Request, record: FileRecord, headers: dict[str, str]
) -> web.StreamResponse:
    """Send a file's bytes, or the requested range, with these headers."""
    if record.size is not None and record.cloud_type == "input":  # sent without edits
        stamp = Stamp(record.size, record.modified)
        part = without_body(request, stamp, headers)
        if isinstance(part, web.Response):
            return part
    content = await request.app[FILES].open(record)
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
    request.app[ACCOUNTING].served(member_of(request), sent, token_of(request))


# --- conditions and ranges ------------------------------------------------------------------------


class Stamp(Struct, frozen=True):
    """A version of a file: its size in bytes and its time (seconds since 1970).

    `tag` distinguishes versions of the same size and time.
    """

    size: int
    modified: float
    tag: str = ""

    @property
    def etag(self) -> str:
        """The entity tag without quotes, in aiohttp's form for files on disk."""
        tag = f"{int(self.modified * 1e9):x}-{self.size:x}"
        return f"{tag}-{self.tag}" if self.tag else tag

    @property
    def last_modified(self) -> str:
        """The value of `Last-Modified`."""
        return formatdate(math.ceil(self.modified), usegmt=True)


class Part(Struct, frozen=True):
    """The status of an answer (200, 206, 304, 412 or 416), and its bytes from `start` to `stop`
    (excluded)."""

    status: int
    start: int = 0
    stop: int = 0


def decide(request: web.BaseRequest, stamp: Stamp) -> Part:
    """Apply the conditions of a request for a file, then its range."""
    if not _is_expected(request, stamp):
        return Part(412)
    if _has_it(request, stamp):
        return Part(304)
    if_range = request.if_range
    if if_range is not None and stamp.modified > if_range.timestamp():
        return Part(200, stop=stamp.size)
    return _range(request, stamp.size)


def _is_expected(request: web.BaseRequest, stamp: Stamp) -> bool:
    """Check `If-Match`, or without it `If-Unmodified-Since`."""
    if request.if_match is not None:
        return _matches(stamp.etag, request.if_match, weak=False)
    since = request.if_unmodified_since
    return since is None or stamp.modified <= since.timestamp()


def _has_it(request: web.BaseRequest, stamp: Stamp) -> bool:
    """Check `If-None-Match`, or without it `If-Modified-Since`."""
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
        tag.value == "*" or (tag.value == etag and (weak or not tag.is_weak)) for tag in listed
    )


def without_body(
    request: web.Request, stamp: Stamp, headers: dict[str, str]
) -> web.Response | Part:
    """Return the answer if it needs no bytes of the file, otherwise the part to send."""
    part = decide(request, stamp)
    match part.status:
        case 304:
            kept = ("Cache-Control", "Content-Disposition", "Etag", "Last-Modified", "Vary")
            known = {**headers, **stamped(stamp, part)}
            headers = {name: known[name] for name in kept if name in known}
            return web.Response(status=304, headers=headers)
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
    """Return the headers of a version of a file and of the part that is sent."""
    headers = {
        "Etag": f'"{stamp.etag}"',
        "Last-Modified": stamp.last_modified,
        "Content-Length": str(part.stop - part.start),
        "Accept-Ranges": "bytes",
    }
    if part.status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{stamp.size}"
    return headers


def redirect(request: web.Request) -> web.Response | None:
    """Return the cloud's answer to `GET /api/view` for a program that was written for the cloud.

    By the cloud's documentation such programs send `X-API-Key`, expect a 302 and fetch its URL
    without the key. Here that is an absolute URL of `/view`, which never redirects; with members it
    has a ticket.
    """
    if KEY_HEADER not in request.headers or request.path != "/api/view":
        return None
    site, base = site_of(request), request.app[OPTIONS].base_path
    token = admission_of(request).token
    address = request.rel_url.with_path(TICKETED, keep_query=True).without_query_params("token")
    if token is not None:
        address = authenticator_of(request).tickets.add(address, token)
    address = URL(f"{site.scheme}://{site.host}{base}{address}")
    return web.Response(status=302, headers={"Location": str(address)})


async def send(
    request: web.Request,
    response: web.StreamResponse,
    content: Content,
    start: int,
    stop: int | None,
) -> int:
    """Send the bytes from `start` to `stop` (excluded; the end if `None`) as they arrive. Return
    their number."""
    sent = 0
    async with delivering(request, response):
        async for piece in content.pieces(start, stop):
            if isinstance(piece, bytes):
                await response.write(piece)
                sent += len(piece)
            else:
                begin, end = piece
                await send_part(request, response, content.file, begin, end)
                sent += end - begin
    return sent


async def send_part(
    request: web.Request, response: web.StreamResponse, descriptor: int, start: int, stop: int
) -> None:
    """Send the bytes of a file from `start` to `stop`, as fast as the client takes them.

    A client that takes each piece at once gets larger ones: a fifth less processor time for a
    picture. Raises `ContentBrokenError` for a file that is shorter.
    """
    size = PIECE
    while start < stop:
        count = min(size, stop - start)
        piece = read_if_in_memory(descriptor, count, start)
        if not piece:
            piece = await asyncio.to_thread(read_at, descriptor, count, start)
        if not piece:
            raise ContentBrokenError("the file on disk is shorter than it was")
        await response.write(piece)
        start += len(piece)
        transport = request.transport
        is_taken = transport is not None and transport.get_write_buffer_size() == 0
        size = min(2 * size, _MAX_PIECE) if is_taken else PIECE


def read_if_in_memory(descriptor: int, size: int, offset: int) -> bytes | bytearray:
    """Return the bytes that can be read without waiting for the disk, none if that is unknown.

    A thread for each piece costs more than the copy: it halves the rate of pictures that are sent
    while they arrive.
    """
    if sys.platform != "linux":
        return b""
    buffer = bytearray(size)
    try:
        count = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        return b""
    del buffer[count:]
    return buffer
