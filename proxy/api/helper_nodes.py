"""Routes of the packs whose nodes the proxy carries: `/api/etn`, `/blender`, `/sidefx_houdini`.

Errors of `/api/etn` are `{"error": text}`, as its pack and its clients have them.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from proxy.api import answers, bodies
from proxy.api.services import member_of, note, of
from proxy.api.userdata import in_tree
from proxy.helpers.exchange import Exchange
from proxy.helpers.service import Helpers
from proxy.translate.errors import LocalError
from proxy.translate.helpers.helper import HelperFailedError
from proxy.translate.helpers.models import guessed
from proxy.translate.helpers.tooling import translated
from proxy.userdata.base import BadNameError, IsFolderError, LeadsOutError, MissingError

#: A request's media type for which the pack has none.
_OCTETS = "application/octet-stream"

_MODEL_NAME = re.compile(r"[a-zA-Z0-9_\-. ]+")


def _error(text: str, status: int = 400) -> web.Response:
    return answers.job_error(text, status)


def _status(text: str, status: int = 200) -> web.Response:
    return answers.json({"status": text}, status)


def _helpers(request: web.Request) -> Helpers:
    helpers = of(request).helpers
    assert helpers is not None  # noqa: S101
    return helpers


def _exchange(request: web.Request) -> Exchange:
    exchange = of(request).exchange
    assert exchange is not None  # noqa: S101
    return exchange


# --- pictures ------------------------------------------------------------------------------


async def expect(_: web.Request) -> None:
    """Leave `Expect: 100-continue` to the handler, which may need no body."""


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
            error = limiter.upload_refusal(member)
            return _error(error.message, answers.status_of(error))
        return _error(f"The picture has more than {most} bytes, which is the maximum.", 413)
    type_ = request.headers.get("Content-Type", _OCTETS)
    try:
        async with of(request).accounting.uploading(member, len(data)):
            new = await helpers.put(member, id_, bytes(data), type_.partition(";")[0].strip())
    except LocalError as error:
        return _error(error.message, answers.status_of(error))
    return _status("success", 201) if new else _status("cached")


async def get_image(request: web.Request) -> web.Response:
    """A picture that was put, or a result, with the media type that it came with."""
    try:
        found = await _helpers(request).get(member_of(request), request.match_info["id"])
    except (LocalError, HelperFailedError) as error:
        status = answers.status_of(error) if isinstance(error, LocalError) else 500
        return _error(str(error), status)
    if found is None:
        return _error("Image not found", 404)
    data, type_ = found
    of(request).accounting.served(member_of(request), len(data))
    return web.Response(body=data, headers={"Content-Type": type_ or _OCTETS})


# --- models and languages ------------------------------------------------------------------


async def get_model_info(request: web.Request) -> web.Response:
    """The models of a folder with what their names tell of them, in pages."""
    catalog = of(request).catalog
    folder = request.match_info.get("folder", "checkpoints")
    if (refusal := await _folder_refusal(request, folder)) is not None:
        return refusal
    try:
        limit = int(request.query.get("limit", "1000"))
        offset = int(request.query.get("offset", "0"))
    except ValueError as error:
        return _error(str(error))
    names = await catalog.models(folder) or []
    page = names[offset : offset + limit]
    found: dict[str, Any] = {name: guessed(name) for name in page}
    if "limit" in request.query:
        found["_meta"] = {"offset": offset, "count": len(page), "total": len(names)}
    return answers.json(found)


async def put_model(request: web.Request) -> web.Response:
    """Says whether a model is there; the cloud takes none from here."""
    folder, name = request.match_info["folder"], request.match_info["filename"]
    if (refusal := await _folder_refusal(request, folder)) is not None:
        return refusal
    if not name.lower().endswith((".sft", ".safetensors")):
        return _error("File extension must be .safetensors")
    if len(name) > 255 or ".." in name or name[0] == "." or not _MODEL_NAME.fullmatch(name):
        return _error("Invalid filename")
    if name in (await of(request).catalog.models(folder) or []):
        return _status("cached")
    return _error(
        f"The proxy cannot upload models to Comfy Cloud: import {name} there, or choose another "
        "model.",
        403,
    )


async def _folder_refusal(request: web.Request, folder: str) -> web.Response | None:
    folders = await of(request).catalog.model_folders()
    if folder in folders:
        return None
    return _error(f"Invalid folder path, must be one of {', '.join(folders)}")


async def get_languages(_: web.Request) -> web.Response:
    """The languages that texts are translated from: none, as in a pack without a translator."""
    return answers.json([{"name": "NOT INSTALLED", "code": "NOT INSTALLED"}])


async def get_translation(request: web.Request) -> web.Response:
    """A text without directives of its language, which must be `en`."""
    match = request.match_info
    try:
        return answers.json(translated(f"lang:{match['lang']} {match['text']}"))
    except HelperFailedError as error:
        return _error(error.message)


# --- workflows -----------------------------------------------------------------------------


async def publish(request: web.Request) -> web.Response:
    """Show a workflow to the member's clients that have subscribed."""
    found = await _fields(request, "name", "client_id", "workflow")
    if isinstance(found, web.Response):
        return found
    name, client_id, workflow = found
    _exchange(request).publish(member_of(request), str(client_id), name, workflow)
    return _status("success")


async def subscribe(request: web.Request) -> web.Response:
    """Let a client hear of workflows; those that are there come at once."""
    found = await _fields(request, "client_id")
    if isinstance(found, web.Response):
        return found
    of(request).krita.connected(member_of(request))
    if _exchange(request).subscribe(member_of(request), str(found[0])):
        return _status("success")
    return _error(repr("Already subscribed"))


async def unsubscribe(request: web.Request) -> web.Response:
    """Let a client hear no more of workflows."""
    found = await _fields(request, "client_id")
    if isinstance(found, web.Response):
        return found
    if _exchange(request).unsubscribe(member_of(request), str(found[0])):
        return _status("success")
    return _error(repr(f"No subscriber found with id {found[0]}"))


async def _fields(request: web.Request, *names: str) -> list[Any] | web.Response:
    """These fields of a body, or the refusal in the pack's words."""
    try:
        body = await bodies.read_json(request)
    except bodies.NotJsonError as error:
        return _error(str(error))
    if not isinstance(body, dict):
        return _error(f"The body must be a JSON object, not {bodies.kind(body)}.")
    missing = next((name for name in names if name not in body), None)
    return [body[name] for name in names] if missing is None else _error(repr(missing))


# --- Blender and Houdini -------------------------------------------------------------------


async def get_samplers(request: web.Request) -> web.Response:
    """The names of the samplers."""
    info = await of(request).catalog.node_class("KSampler")
    required = {} if info is None else info["input"].get("required", {})
    kind, *options = required.get("sampler_name", [[]])
    return answers.json(options[0].get("options", []) if kind == "COMBO" else kind)


async def get_workflows(request: web.Request) -> web.Response:
    """The member's saved workflows, as `GET /v2/userdata` lists them."""
    try:
        entries = await of(request).userdata.tree(member_of(request), "workflows")
    except MissingError:
        entries = []
    return answers.json([in_tree(entry) for entry in entries if not entry.is_folder])


async def get_workflow(request: web.Request) -> web.Response:
    """One saved workflow in API format, by its path as they are listed."""
    path = request.query.get("filepath", "")
    if not path:
        return answers.text("The filepath query parameter is required", 400)
    try:
        data, _ = await of(request).userdata.read(member_of(request), path)
    except (BadNameError, IsFolderError, LeadsOutError, MissingError):
        return answers.text("File not found", 404)
    workflow = bodies.parse(data)
    nodes = workflow.values() if isinstance(workflow, dict) else ()
    if nodes and all(isinstance(node, dict) and "class_type" in node for node in nodes):
        return answers.json(workflow)
    raise LocalError(
        "not_api_format",
        "This workflow is in the format of the web interface; export it in API format (Workflow > "
        "Export (API)) and save that.",
        details=path,
    )


async def refresh_images(request: web.Request) -> web.Response:
    """Let the web pages of the member reload all pictures."""
    _exchange(request).leave(member_of(request), "refresh_all")
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
    _exchange(request).leave(member_of(request), command, {"image": body["image"]})
    return _status("ok")


async def get_notes(request: web.Request) -> web.Response:
    """The notes of the last seconds, those after `since` (seconds since 1970)."""
    since = (await bodies.read_object(request)).get("since", 0)
    if isinstance(since, bool) or not isinstance(since, int | float):
        raise LocalError("invalid_body", "since must be a number of seconds.")
    notes = _exchange(request).notes(member_of(request), since)
    shown = [[one.at, one.command, one.argument] for one in notes]
    return answers.json({"status": "ok", "messages": shown})


async def interrupt(request: web.Request) -> web.Response:
    """Stop a job, whether it runs or waits."""
    body = await bodies.read_object(request)
    prompt_id = body.get("prompt_id")
    if not isinstance(prompt_id, str):
        raise LocalError("invalid_body", "The body must name a job as prompt_id.")
    if await of(request).jobs.cancel(member_of(request), prompt_id):
        note(request, "cancel", job=prompt_id)
    return _status("ok")
