"""A member's files and settings, such as the saved workflows of the web interface.

Times of `full_info` are whole ms as in the newest ComfyUI, those of `/v2/userdata` are seconds.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import wraps
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from proxy.api import bodies, request_bodies
from proxy.api.content import SAFETY_HEADERS, content_headers
from proxy.api.downloads import Stamp, send_part, stamped, without_body
from proxy.api.holding import UNCOUNTED, allocate, hold, in_turn
from proxy.api.keys import ACCOUNTING, SPOOL, USERDATA
from proxy.api.requests import member_of, token_of
from proxy.api.sending import delivering, send_list
from proxy.files.cache import write_all
from proxy.runtime import randomness
from proxy.translate import codec
from proxy.translate.errors import LocalError, PlainError
from proxy.translate.media_types import media_type
from proxy.userdata.entries import (
    BadNameError,
    FullError,
    IsFileError,
    IsFolderError,
    LeadsOutError,
    MissingError,
    TakenError,
    UserDataEntry,
    parts_of,
)
from proxy.userdata.stored import MAX_SETTINGS_BYTES, SettingsTooLargeError

#: The reason in the status line, as in ComfyUI, with an empty body.
BAD_NAME = 'Invalid filename. Please avoid special characters like :\\/*?"<>|'
#: The file that pages may use directly.
STYLE_SHEET = "user.css"


def _with_refusals(handler: bodies.Handler) -> bodies.Handler:
    """Answer the errors of user data as ComfyUI does."""

    @wraps(handler)
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except LeadsOutError:
            return bodies.empty(403)
        except MissingError:
            return bodies.empty(404)
        except TakenError:
            return bodies.text("File already exists", 409)
        except BadNameError:
            return web.Response(status=400, reason=BAD_NAME)
        except IsFolderError:
            raise LocalError(
                "is_a_directory", "This name is a folder; only files can be changed."
            ) from None

    return answer


async def list_files(request: web.Request) -> web.StreamResponse:
    """Return the files in the folder `dir`: relative paths, or more with `full_info` or `split`."""
    query, held = request.query, hold(request, "answer")
    folder = query.get("dir", "")
    if not folder:
        return bodies.text("Directory not provided", 400)
    try:
        entries = await request.app[USERDATA].files(
            member_of(request),
            folder,
            recurse=_says_true(query.get("recurse")),
            reserve=held.resize,
        )
    except LeadsOutError:
        return bodies.text("Invalid directory", 403)
    except MissingError:
        return bodies.text("Directory not found", 404)
    if _says_true(query.get("full_info")):
        return await send_list(request, entries, _full_info)
    if _says_true(query.get("split")):
        return await send_list(request, entries, lambda entry: [entry.path, *entry.path.split("/")])
    return await send_list(request, entries, lambda entry: entry.path)


async def list_tree(request: web.Request) -> web.StreamResponse:
    """Return the folders and files below `path`, or all of them."""
    path = unquote(request.query.get("path", ""))
    try:
        entries = await request.app[USERDATA].tree(
            member_of(request), path, reserve=hold(request, "answer").resize
        )
    except LeadsOutError:
        return bodies.text("Invalid path requested", 400)
    except MissingError:
        return bodies.text("Requested path not found", 404)
    except IsFileError:
        return bodies.text("Requested path is not a directory", 400)
    return await send_list(request, entries, UserDataEntry.listed)


@_with_refusals
async def get_file(request: web.Request) -> web.StreamResponse:
    """Send a file as an attachment, with ranges and conditions; errors have no body."""
    name, member, userdata = request.match_info["file"], member_of(request), request.app[USERDATA]
    try:
        entry = await userdata.find(member, name)
        steps = parts_of(name)
        if steps == (STYLE_SHEET,):
            shown = {"Content-Type": "text/css", "Content-Disposition": "inline"}
            headers = shown | SAFETY_HEADERS
        else:
            type_ = media_type(steps[-1] if steps else "")
            headers = content_headers(type_, disposition="attachment")
        if entry.size > UNCOUNTED:
            return await _send_large(request, name, entry, headers)
        data, entry = await userdata.read(member, name)
    except IsFolderError:
        return web.StreamResponse(status=403)  # an empty body in chunks
    stamp = Stamp(entry.size, entry.modified)
    part = without_body(request, stamp, headers)
    if isinstance(part, web.Response):
        return part
    headers |= stamped(stamp, part)
    return web.Response(status=part.status, body=data[part.start : part.stop], headers=headers)


async def _send_large(
    request: web.Request, name: str, entry: UserDataEntry, headers: dict[str, str]
) -> web.StreamResponse:
    """Send a file, or a range, from a copy on disk that all its readers share.

    So slow readers hold no memory.
    """
    stamp = Stamp(entry.size, entry.modified)
    part = without_body(request, stamp, headers)
    if isinstance(part, web.Response):
        return part
    member = member_of(request)

    async def copy(stack: ExitStack) -> tuple[int, Stamp]:
        share = request.app[SPOOL].share(member)
        stack.enter_context(share).grow(entry.size)
        with allocate(request, "answer") as held:
            held.grow(entry.size)
            data, found = await request.app[USERDATA].read(member, name)
            file = stack.enter_context(TemporaryFile(buffering=0))  # noqa: SIM115
            await asyncio.to_thread(write_all, file.fileno(), data)
        return file.fileno(), Stamp(found.size, found.modified)

    async with request.app[SPOOL].files.opened((member, name, stamp), copy) as (descriptor, newest):
        part = without_body(request, newest, headers)
        if isinstance(part, web.Response):
            return part
        headers |= stamped(newest, part)
        response = web.StreamResponse(status=part.status, headers=headers)
        async with delivering(request, response):
            await send_part(request, response, descriptor, part.start, part.stop)
        return response


@_with_refusals
async def post_file(request: web.Request) -> web.StreamResponse:
    """Write the body to a file, create its folders, and return its path."""
    data = await request_bodies.read(request)
    name, userdata = request.match_info["file"], request.app[USERDATA]
    async with _storing(request, len(data)) as (member, max_bytes):
        entry = await userdata.write(
            member, name, data, overwrite=_may_overwrite(request), max_bytes=max_bytes
        )
    return _written(request, entry)


@_with_refusals
async def delete_file(request: web.Request) -> web.StreamResponse:
    """Delete a file: 204."""
    await request.app[USERDATA].delete(member_of(request), request.match_info["file"])
    return bodies.empty(204)


@_with_refusals
async def move_file(request: web.Request) -> web.StreamResponse:
    """Rename a file, and return its new path."""
    name, target = request.match_info["file"], request.match_info["dest"]
    async with _storing(request, 0) as (member, max_bytes):
        entry = await request.app[USERDATA].move(
            member, name, target, overwrite=_may_overwrite(request), max_bytes=max_bytes
        )
    return _written(request, entry)


@asynccontextmanager
async def _storing(request: web.Request, count: int) -> AsyncIterator[tuple[str, int | None]]:
    """Count an upload of `count` bytes that the block stores. Yield the member, and the maximum of
    stored bytes.

    Raises `LocalError` (413, 429) beyond a limit.
    """
    member, accounting = member_of(request), request.app[ACCOUNTING]
    async with accounting.uploading(member, count, token_of(request)):
        try:
            yield member, accounting.limiter.stored_bytes(member)
        except FullError as error:
            raise accounting.limiter.storage_is_full(member, error.stored) from error


def _written(request: web.Request, entry: UserDataEntry) -> web.Response:
    if _says_true(request.query.get("full_info")):
        return bodies.json(_full_info(entry))
    return bodies.json(entry.path)


def _full_info(entry: UserDataEntry) -> dict[str, Any]:
    return {
        "path": entry.path,
        "size": entry.size,
        "modified": int(entry.modified * 1000),
        "created": int(entry.created * 1000),
    }


def _says_true(value: str | None) -> bool:
    return (value or "").lower() == "true"


def _may_overwrite(request: web.Request) -> bool:
    return request.query.get("overwrite") != "false"


async def get_settings(request: web.Request) -> web.Response:
    """Return all settings."""
    with allocate(request, "answer") as held:
        found = await request.app[USERDATA].settings_json(member_of(request), reserve=held.resize)
    return bodies.ready(found)


async def get_setting(request: web.Request) -> web.Response:
    """Return the value of a setting, or `null`."""
    name, userdata = request.match_info["id"], request.app[USERDATA]
    with allocate(request, "answer") as held:
        found = await userdata.settings_json(member_of(request), name, reserve=held.resize)
    return bodies.ready(found)


async def post_settings(request: web.Request) -> web.Response:
    """Set some settings, and leave the others unchanged."""
    must = "The settings must be a JSON object of names and values"
    return await _change(
        request, request_bodies.as_object(await request_bodies.read_json(request), must)
    )


async def post_setting(request: web.Request) -> web.Response:
    """Set one setting to the body, which is any JSON."""
    value = await request_bodies.read_json(request)
    return await _change(request, {request.match_info["id"]: value})


async def _change(request: web.Request, changes: Mapping[str, Any]) -> web.Response:
    size = await in_turn(request, lambda: len(codec.dump_bytes(changes)))
    if size > MAX_SETTINGS_BYTES:
        raise SettingsTooLargeError
    async with _storing(request, size) as (member, max_bytes):
        await request.app[USERDATA].change_settings(member, changes, max_bytes=max_bytes)
    return bodies.empty()


#: Characters that the id of a user cannot have, and the prefix of ComfyUI's own users.
_NOT_IN_USER_IDS, _SYSTEM_USERS = re.compile("[^a-zA-Z0-9_-]+"), "__"
MAX_USER_NAME = 100


async def post_user(request: web.Request) -> web.Response:
    """Add a name to the list of users; return its id. Everything belongs to the default user."""
    body = await request_bodies.read_object(request)
    name = body.get("username")
    if not isinstance(name, str) or not name.strip():
        raise PlainError("username not provided")
    name = name.strip()
    if name.startswith(_SYSTEM_USERS) or len(name) > MAX_USER_NAME:
        raise PlainError("Invalid username.")
    if not await request.app[USERDATA].add_user(member_of(request), name):
        raise PlainError("Duplicate username.")
    return bodies.json(f"{_NOT_IN_USER_IDS.sub('-', name)}_{randomness.uuid4()}")
