"""`/view`: the bytes of a file, or a picture made of it."""

from __future__ import annotations

from aiohttp import web

from proxy.api import answers
from proxy.api.downloads import Stamp, decide, redirect, send, stamped, without_body
from proxy.api.services import member_of, of
from proxy.storage.files import FileRecord
from proxy.translate.names import UNKNOWN, is_active, media_type, view_place


async def get_view(request: web.Request) -> web.StreamResponse:
    """A file by `filename`, `subfolder` and `type`; refusals have no body.

    A picture made of it has neither ETag nor ranges, as in ComfyUI.
    """
    query = request.query
    place = view_place(query.get("filename"), query.get("subfolder"), query.get("type"))
    if isinstance(place, int):
        return answers.empty(place)
    files = of(request).files
    record = await files.find(
        member_of(request), place.type, place.subfolder, place.path.rpartition("/")[2]
    )
    if record is None:
        return answers.empty(404)
    preview, channel = query.get("preview"), query.get("channel")
    asked = preview is not None or channel is not None
    if asked and files.wants_conversion(preview=preview, channel=channel):
        picture, type_ = await files.convert(record, preview=preview, channel=channel)
        headers = {"Content-Disposition": _disposition(record.filename), "Content-Type": type_}
        if request.method != "HEAD":
            _count(request, len(picture))
        return web.Response(body=picture, headers=headers)
    return redirect(request) or await _file(request, record)


async def _file(request: web.Request, record: FileRecord) -> web.StreamResponse:
    filename = record.path.rpartition("/")[2]
    headers = file_headers(filename, request.headers.get("Sec-Fetch-Dest"))
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


def file_headers(filename: str, destination: str | None) -> dict[str, str]:
    """Type and disposition of a file as the newest ComfyUI gives them.

    What a browser would run (HTML, scripts, styles, XML) is sent as an attachment; an SVG is
    shown where the browser says that it is for an `<img>` (`destination` is `Sec-Fetch-Dest`).
    """
    type_ = media_type(filename)
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
