"""`/view`: the bytes of a file, or a picture made of it."""

from __future__ import annotations

from aiohttp import web

from proxy.api import bodies
from proxy.api.connections import member_of, of
from proxy.api.downloads import Stamp, decide, delivering, redirect, send, stamped, without_body
from proxy.storage.files import FileRecord
from proxy.translate.names import UNKNOWN, hash_address, is_active, media_type, view_place


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
    preview, channel = query.get("preview"), query.get("channel")
    asked = preview is not None or channel is not None
    if asked and files.wants_conversion(preview=preview, channel=channel):
        picture, kind = await files.convert(record, preview=preview, channel=channel)
        headers = {"Content-Disposition": _disposition(record.filename), "Content-Type": kind}
        if request.method != "HEAD":
            _count(request, len(picture))
        return web.Response(body=picture, headers=headers)
    headers = file_headers(str(filename), request.headers.get("Sec-Fetch-Dest"), type_)
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
            "Content-Type": "application/zip",
            "Content-Disposition": _disposition(found.name),
            "Content-Length": str(found.size),
            "X-Content-Type-Options": "nosniff",
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
    file = await of(request).files.at(asset.member, asset.place)
    return file, asset.name, asset.media_type or UNKNOWN


async def send_file(
    request: web.Request, record: FileRecord, headers: dict[str, str]
) -> web.StreamResponse:
    """A file's bytes, or the part that is asked for, with these headers."""
    if record.size is not None and record.cloud_type == "input":  # what is served as it is
        stamp = Stamp(record.size, record.modified)
        answer = without_body(request, stamp, decide(request, stamp), headers)
        if answer is not None:
            return answer
    content = await of(request).files.open(record)
    try:
        if content.size is None:
            response = web.StreamResponse(headers=headers)
            if request.method != "HEAD":
                _count(request, await send(request, response, content, 0, None))
            return response
        stamp = Stamp(
            content.size, record.modified, content.edits.tag if content.edits.edits else ""
        )
        part = decide(request, stamp)
        answer = without_body(request, stamp, part, headers)
        if answer is not None:
            return answer
        response = web.StreamResponse(
            status=part.status, headers={**headers, **stamped(stamp, part)}
        )
        _count(request, await send(request, response, content, part.start, part.stop))
        return response
    finally:
        content.close()


def _count(request: web.Request, sent: int) -> None:
    of(request).accounting.served(member_of(request), sent)


def file_headers(
    filename: str, destination: str | None, type_: str | None = None
) -> dict[str, str]:
    """Type (by the name unless it is given) and disposition of a file as the newest ComfyUI gives
    them.

    What a browser would run (HTML, scripts, styles, XML) is sent as an attachment; an SVG is
    shown where the browser says that it is for an `<img>` (`destination` is `Sec-Fetch-Dest`).
    """
    type_ = type_ or media_type(filename)
    headers = {
        "Content-Disposition": _disposition(filename),
        "Content-Type": type_,
        "X-Content-Type-Options": "nosniff",
    }
    if is_active(type_):
        headers["Vary"] = "Sec-Fetch-Dest"
        headers["Cache-Control"] = "no-store"
        if not (type_ == "image/svg+xml" and destination == "image"):
            headers["Content-Type"] = UNKNOWN
            headers["Content-Disposition"] = f"attachment; {_disposition(filename)}"
    return headers


def _disposition(filename: str) -> str:
    """`filename="…"` in UTF-8; quotes escaped, and what a header cannot hold replaced."""
    name = filename.replace("\\", "\\\\").replace('"', '\\"').encode(errors="replace").decode()
    return 'filename="' + "".join(one if one.isprintable() else "_" for one in name) + '"'
