"""Routes of the packs whose nodes the proxy carries: `/api/etn`, `/blender`, `/sidefx_houdini`.

Errors of `/api/etn` are `{"error": text}`, as its pack and its clients have them.
"""

from __future__ import annotations

import re
from typing import Any, cast

from aiohttp import web

from proxy.api import bodies
from proxy.api.connections import member_of, of
from proxy.api.content import content_headers
from proxy.api.middleware import note, prepare
from proxy.api.userdata import in_tree
from proxy.packs.nodes import HelperFailedError
from proxy.packs.notes import Notes
from proxy.packs.service import Helpers
from proxy.packs.tooling import guessed, translated
from proxy.packs.workflows import WorkflowExchange
from proxy.translate import codec
from proxy.translate.errors import LocalError, PlainError
from proxy.userdata.stored import BadNameError, IsFolderError, LeadsOutError, MissingError

#: A request's media type for which the pack has none.
_OCTETS = "application/octet-stream"
#: Bytes of a picture that are written at once.
_CHUNK = 256 * 1024

_MODEL_NAME = re.compile(r"[a-zA-Z0-9_\-. ]+")

#: A handler whose refusals all have that form.
_plain = bodies.in_form(PlainError.of)


def _status(text: str, status: int = 200) -> web.Response:
    return bodies.json({"status": text}, status)


def _helpers(request: web.Request) -> Helpers:
    return cast(Helpers, of(request).helpers)


def _workflows(request: web.Request) -> WorkflowExchange:
    return cast(WorkflowExchange, of(request).workflows)


def _notes(request: web.Request) -> Notes:
    return cast(Notes, of(request).notes)


# --- pictures -------------------------------------------------------------------------------------


async def expect(_: web.Request) -> None:
    """Leave `Expect: 100-continue` to the handler, which may need no body."""


@_plain
async def put_image(request: web.Request) -> web.Response:
    """Keep a picture under an id; one that is known stays and the body is not needed."""
    helpers, member, id_ = _helpers(request), member_of(request), request.match_info["id"]
    if await helpers.knows(member, id_):
        return _status("cached")
    if "Expect" in request.headers and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    limiter = of(request).accounting.limiter
    room = await limiter.upload_room(member)
    most = request.client_max_size
    try:
        data = await bodies.read(request, most if room is None else min(most, room))
    except web.HTTPRequestEntityTooLarge:
        if room is not None and room < most:
            raise limiter.upload_refusal(member) from None
        raise PlainError(
            f"The picture has more than {most} bytes, which is the maximum.", kind="too_large"
        ) from None
    type_ = request.headers.get("Content-Type", _OCTETS)
    async with of(request).accounting.uploading(member, len(data)):
        new = await helpers.put(member, id_, bytes(data), type_.partition(";")[0].strip())
    return _status("success", 201) if new else _status("cached")


@_plain
async def get_image(request: web.Request) -> web.StreamResponse:
    """Send a picture that was put, or a result, with its media type."""
    member, id_ = member_of(request), request.match_info["id"]
    try:
        async with _helpers(request).opened(member, id_) as found:
            if found is None:
                raise PlainError("Image not found", kind="not_found")
            data, type_ = found
            destination = request.headers.get("Sec-Fetch-Dest")
            response = web.StreamResponse(headers=content_headers(type_, destination))
            response.content_length = len(data)
            await prepare(request, response)
            if request.method != "HEAD":
                for start in range(0, len(data), _CHUNK):
                    await response.write(data[start : start + _CHUNK])
                of(request).accounting.served(member, len(data))
            return response
    except HelperFailedError as error:
        raise PlainError(error.message, kind="internal") from None


# --- models and languages -------------------------------------------------------------------------


async def get_model_info(request: web.Request) -> web.Response:
    """The models of a folder with what their names tell of them, in pages."""
    catalog = of(request).catalog
    folder = request.match_info.get("folder", "checkpoints")
    await _check_folder(request, folder)
    try:
        limit = int(request.query.get("limit", "1000"))
        offset = int(request.query.get("offset", "0"))
    except ValueError as error:
        raise PlainError(str(error)) from None
    names = await catalog.models(member_of(request), folder) or []
    page = names[offset : offset + limit]
    found: dict[str, Any] = {name: guessed(name) for name in page}
    if "limit" in request.query:
        found["_meta"] = {"offset": offset, "count": len(page), "total": len(names)}
    return bodies.json(found)


async def put_model(request: web.Request) -> web.Response:
    """Says whether a model is there; the cloud takes none from here."""
    folder, name = request.match_info["folder"], request.match_info["filename"]
    await _check_folder(request, folder)
    if not name.lower().endswith((".sft", ".safetensors")):
        raise PlainError("File extension must be .safetensors")
    if len(name) > 255 or ".." in name or name[0] == "." or not _MODEL_NAME.fullmatch(name):
        raise PlainError("Invalid filename")
    if name in (await of(request).catalog.models(member_of(request), folder) or []):
        return _status("cached")
    raise PlainError(
        f"The proxy cannot upload models to Comfy Cloud: import {name} there, or choose another "
        "model.",
        kind="forbidden",
    )


async def _check_folder(request: web.Request, folder: str) -> None:
    folders = await of(request).catalog.model_folders()
    if folder not in folders:
        raise PlainError(f"Invalid folder path, must be one of {', '.join(folders)}")


async def get_languages(_: web.Request) -> web.Response:
    """The languages that texts are translated from: none, as in a pack without a translator."""
    return bodies.json([{"name": "NOT INSTALLED", "code": "NOT INSTALLED"}])


async def get_translation(request: web.Request) -> web.Response:
    """A text without directives of its language, which must be `en`."""
    match = request.match_info
    try:
        return bodies.json(translated(f"lang:{match['lang']} {match['text']}"))
    except HelperFailedError as error:
        raise PlainError(error.message) from None


# --- workflows ------------------------------------------------------------------------------------


async def publish(request: web.Request) -> web.Response:
    """Show a workflow to the member's clients that have subscribed."""
    name, client_id, workflow = await _fields(request, "name", "client_id", "workflow")
    await _workflows(request).publish(member_of(request), str(client_id), name, workflow)
    return _status("success")


async def subscribe(request: web.Request) -> web.Response:
    """Let a client hear of workflows; those that are there come at once."""
    (client_id,) = await _fields(request, "client_id")
    if await _workflows(request).subscribe(member_of(request), str(client_id)):
        return _status("success")
    raise PlainError(repr("Already subscribed"))


async def unsubscribe(request: web.Request) -> web.Response:
    """Let a client hear no more of workflows."""
    (client_id,) = await _fields(request, "client_id")
    if _workflows(request).unsubscribe(member_of(request), str(client_id)):
        return _status("success")
    raise PlainError(repr(f"No subscriber found with id {client_id}"))


async def _fields(request: web.Request, *names: str) -> list[Any]:
    """These fields of a body. Raises `PlainError` in the pack's words."""
    try:
        body = await bodies.read_json(request)
    except bodies.NotJsonError as error:
        raise PlainError(str(error)) from None
    if not isinstance(body, dict):
        raise PlainError(f"The body must be a JSON object, not {bodies.kind(body)}.")
    missing = next((name for name in names if name not in body), None)
    if missing is not None:
        raise PlainError(repr(missing))
    return [body[name] for name in names]


# --- Blender and Houdini --------------------------------------------------------------------------


async def get_samplers(request: web.Request) -> web.Response:
    """The names of the samplers."""
    info = await of(request).catalog.node_class("KSampler")
    required = {} if info is None else info["input"].get("required", {})
    kind, *options = required.get("sampler_name", [[]])
    return bodies.json(options[0].get("options", []) if kind == "COMBO" else kind)


async def get_workflows(request: web.Request) -> web.Response:
    """The member's saved workflows, as `GET /v2/userdata` lists them."""
    try:
        entries = await of(request).userdata.tree(member_of(request), "workflows")
    except MissingError:
        entries = []
    return bodies.json([in_tree(entry) for entry in entries if not entry.is_folder])


async def get_workflow(request: web.Request) -> web.Response:
    """One saved workflow in API format, by its path as they are listed."""
    path = request.query.get("filepath", "")
    if not path:
        return bodies.text("The filepath query parameter is required", 400)
    try:
        data, _ = await of(request).userdata.read(member_of(request), path)
    except (BadNameError, IsFolderError, LeadsOutError, MissingError):
        return bodies.text("File not found", 404)
    workflow = bodies.parse(data)
    nodes = workflow.values() if isinstance(workflow, dict) else ()
    if nodes and all(isinstance(node, dict) and "class_type" in node for node in nodes):
        return bodies.json(workflow)
    raise LocalError(
        "not_api_format",
        "This workflow is in the format of the web interface; export it in API format (Workflow > "
        "Export (API)) and save that.",
        details=path,
    )


async def refresh_images(request: web.Request) -> web.Response:
    """Let the web pages of the member reload all pictures."""
    _notes(request).leave(member_of(request), "refresh_all")
    return _status("ok")


async def refresh_image(request: web.Request) -> web.Response:
    """Let the web pages of the member reload a picture."""
    return await _image_notice(request, "refresh")


async def create_loader(request: web.Request) -> web.Response:
    """Let the web pages of the member make a node that loads a picture."""
    return await _image_notice(request, "create_loader")


async def _image_notice(request: web.Request, command: str) -> web.Response:
    body = await bodies.read_object(request)
    if "image" not in body:
        raise LocalError("invalid_body", "The body must name a picture as image.")
    _notes(request).leave(member_of(request), command, {"image": body["image"]})
    return _status("ok")


async def get_notes(request: web.Request) -> web.Response:
    """The notes of the last seconds, those after `since` (seconds since 1970)."""
    since = (await bodies.read_object(request)).get("since", 0)
    if isinstance(since, bool) or not isinstance(since, int | float):
        raise LocalError("invalid_body", "since must be a number of seconds.")
    notes = _notes(request).since(member_of(request), since)
    shown = [[note.at, note.command, codec.loads(note.argument)] for note in notes]
    return bodies.json({"status": "ok", "messages": shown})


async def interrupt(request: web.Request) -> web.Response:
    """Stop a job, whether it runs or waits."""
    body = await bodies.read_object(request)
    prompt_id = body.get("prompt_id")
    if not isinstance(prompt_id, str):
        raise LocalError("invalid_body", "The body must name a job as prompt_id.")
    if await of(request).jobs.cancel(member_of(request), prompt_id):
        note(request, "cancel", job=prompt_id)
    return _status("ok")
