"""`/api/assets` and `/api/tags`: a member's files, from the proxy's own records.

All errors have the nested form of these routes.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from aiohttp import web

from proxy.api import bodies, request_bodies, upload
from proxy.api.content import content_headers
from proxy.api.downloads import send_file
from proxy.api.keys import ACCOUNTING, ASSETS
from proxy.api.requests import member_of, token_of
from proxy.files.assets import gone
from proxy.translate import asset_requests
from proxy.translate.assets import AssetError, read_hash
from proxy.translate.errors import LocalError
from proxy.translate.media_types import UNKNOWN

#: The pattern of an id in a path, ignoring case.
ID = "{id:[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}}"

#: Gives all errors of a handler the nested form.
nested = bodies.in_form(AssetError.of)


def _id(request: web.Request) -> str:
    return request.match_info["id"].lower()


# --- lists ----------------------------------------------------------------------------------------


async def list_assets(request: web.Request) -> web.Response:
    """Return a page of records, the newest first unless the query says otherwise."""
    query = asset_requests.read_list(request.query)
    return bodies.json(await request.app[ASSETS].page(member_of(request), query))


async def list_tags(request: web.Request) -> web.Response:
    """Return tags with the number of records that have them."""
    query = asset_requests.read_tags(request.query)
    return bodies.json(await request.app[ASSETS].tags(member_of(request), query))


async def refine_tags(request: web.Request) -> web.Response:
    """Return the tags of the matching records, with their numbers."""
    wanted, limit = asset_requests.read_refine(request.query)
    return bodies.json(await request.app[ASSETS].refine(member_of(request), wanted, limit))


# --- one record -----------------------------------------------------------------------------------


async def get_asset(request: web.Request) -> web.Response:
    """Return a record."""
    return bodies.json(await request.app[ASSETS].shown(member_of(request), _id(request)))


async def put_asset(request: web.Request) -> web.Response:
    """Change name, metadata or preview of a record."""
    changes = asset_requests.read_changes(await read_body(request))
    return bodies.json(await request.app[ASSETS].change(member_of(request), _id(request), changes))


async def delete_asset(request: web.Request) -> web.Response:
    """Delete a record, but not its file."""
    await request.app[ASSETS].delete(member_of(request), _id(request))
    return web.Response(status=204)


async def add_tags(request: web.Request) -> web.Response:
    """Add tags to a record."""
    tags = asset_requests.read_tags_body(await read_body(request))
    return bodies.json(await request.app[ASSETS].add_tags(member_of(request), _id(request), tags))


async def remove_tags(request: web.Request) -> web.Response:
    """Remove tags from a record."""
    tags = asset_requests.read_tags_body(await read_body(request))
    return bodies.json(
        await request.app[ASSETS].remove_tags(member_of(request), _id(request), tags)
    )


async def get_content(request: web.Request) -> web.StreamResponse:
    """Send the bytes of a record, as an attachment unless `disposition` is `inline`."""
    assets, member = request.app[ASSETS], member_of(request)
    asset, file = await assets.file(member, _id(request))
    inline = request.query.get("disposition") == "inline"
    name = quote(asset.name.encode("utf-8", "replace"), safe="")
    headers = content_headers(
        asset.media_type or UNKNOWN,
        request.headers.get("Sec-Fetch-Dest"),
        disposition="inline" if inline else "attachment",
        name=f"filename*=UTF-8''{name}",
    )
    try:
        answer = await send_file(request, file, headers)
    except LocalError as error:
        if error.kind == "not_found":
            raise gone(asset.id) from error
        raise
    await assets.accessed(member, asset.id)
    return answer


# --- new records ----------------------------------------------------------------------------------


async def post_asset(request: web.Request) -> web.Response:
    """Store a file with its record, or create a record of a content by its hash."""
    assets, member = request.app[ASSETS], member_of(request)
    if request_bodies.type_of(request) != "multipart/form-data":
        raise AssetError(
            "UNSUPPORTED_MEDIA_TYPE", "Send the file as multipart/form-data.", kind="unsupported"
        )
    async with upload.form(request) as form:
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        tags = [tag for tag in form.getall("tags", []) if isinstance(tag, str)]
        new = asset_requests.read_upload(fields, tags)
        file = form.get("file")
        if not isinstance(file, web.FileField):
            if new.hash is not None and await assets.has(member, read_hash(new.hash)):
                return bodies.json(await assets.from_hash(member, new), 201)
            raise AssetError("MISSING_FILE", "The form has no part `file`.")
        accounting, token = request.app[ACCOUNTING], token_of(request)
        async with accounting.uploading(member, upload.size(file.file), token):
            chunks = upload.chunks(file.file)
            return bodies.json(await assets.upload(member, chunks, file.filename, new), 201)


async def post_from_hash(request: web.Request) -> web.Response:
    """Create a record of a content that the member has."""
    new = asset_requests.read_new(await read_body(request))
    return bodies.json(await request.app[ASSETS].from_hash(member_of(request), new), 201)


async def head_hash(request: web.Request) -> web.Response:
    """Answer whether the member has a content: 200 or 404, without a body."""
    try:
        hash_ = read_hash(request.match_info["hash"])
    except AssetError:
        return bodies.empty(400)
    return bodies.empty(200 if await request.app[ASSETS].has(member_of(request), hash_) else 404)


# --- scans ----------------------------------------------------------------------------------------


async def post_seed(request: web.Request) -> web.Response:
    """Create records of files and models that have none."""
    body = await read_body(request) if request.can_read_body else {}
    roots = asset_requests.read_roots(body)
    progress = await request.app[ASSETS].seed(member_of(request), list(dict.fromkeys(roots)))
    if request.query.get("wait", "").lower() in ("true", "1"):
        return bodies.json({"status": "completed", "progress": progress, "errors": []})
    return bodies.json({"status": "started"}, 202)


async def get_seed_status(_: web.Request) -> web.Response:
    """Return that no scan runs: a scan ends before its answer."""
    return bodies.json({"state": "IDLE", "progress": None, "errors": []})


async def cancel_seed(_: web.Request) -> web.Response:
    """Return that no scan runs, so that there is none to cancel."""
    return bodies.json({"status": "idle"})


async def prune(_: web.Request) -> web.Response:
    """Return that no record was marked: records are marked as missing at once."""
    return bodies.json({"status": "completed", "marked": 0})


async def not_here(_: web.Request) -> web.Response:
    """Refuse what only the cloud's own server does."""
    raise AssetError(
        "BACKEND_UNSUPPORTED",
        "Models are imported at cloud.comfy.org, and not through this server.",
        kind="not_implemented",
    )


# --- exports --------------------------------------------------------------------------------------


async def post_export(request: web.Request) -> web.Response:
    """Start an export."""
    wanted = asset_requests.read_export(await read_body(request))
    id_ = await request.app[ASSETS].exports.begin(member_of(request), wanted)
    answer = {"task_id": id_, "status": "created", "message": "The export has begun."}
    return bodies.json(answer, 202)


async def get_task(request: web.Request) -> web.Response:
    """Return the progress of an export."""
    id_ = request.match_info["id"].lower()
    return bodies.json(await request.app[ASSETS].exports.task(member_of(request), id_))


async def cancel_task(request: web.Request) -> web.Response:
    """Cancel an export that waits or runs."""
    await request.app[ASSETS].exports.cancel(member_of(request), request.match_info["id"].lower())
    return bodies.json({"status": "cancelling"})


async def get_export(request: web.Request) -> web.Response:
    """Return the URL of an archive."""
    name = asset_requests.read_name(request.match_info["name"])
    if await request.app[ASSETS].exports.archive(member_of(request), name) is None:
        raise AssetError("EXPORT_NOT_FOUND", "There is no such export.", kind="not_found")
    query = urlencode({"filename": name, "type": "temp", "subfolder": "exports"})
    return bodies.json({"url": f"/api/view?{query}"})


async def read_body(request: web.Request) -> Any:
    """Return the body as JSON. Raises `AssetError` if it is not JSON."""
    try:
        return await request_bodies.read_json(request)
    except request_bodies.NotJsonError as error:
        raise AssetError("INVALID_JSON", "The request body must be valid JSON.") from error
