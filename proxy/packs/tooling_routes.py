"""The routes of comfyui-tooling-nodes: pictures, models, languages, and published workflows.

Their errors are `{"error": text}`, as the pack and its clients have them.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from proxy.packs.model_names import guessed
from proxy.packs.nodes import PackNodeError
from proxy.packs.pack import Pack, PackCall, PackReply, PackRoute, PackServices
from proxy.packs.tooling import NODES, translated
from proxy.translate.errors import PlainError

_MODEL_NAME = re.compile(r"[a-zA-Z0-9_\-. ]+")


async def put_image(call: PackCall, services: PackServices) -> PackReply:
    """Keep a picture under an id; one that is known stays and the body is not needed."""
    id_ = call.path["id"]
    if await services.pictures.knows(call.member, id_):
        return call.json({"status": "cached"})
    async with call.upload() as data:
        new = await services.pictures.put(call.member, id_, data, call.content_type)
    return call.json({"status": "success"}, 201) if new else call.json({"status": "cached"})


async def get_image(call: PackCall, services: PackServices) -> PackReply:
    """Send a picture that was put, or a result, with its media type."""
    try:
        async with services.pictures.opened(call.member, call.path["id"]) as found:
            if found is None:
                raise PlainError("Image not found", kind="not_found")
            return await call.send(*found)
    except PackNodeError as error:
        raise PlainError(error.message, kind="internal") from None


# --- models and languages -------------------------------------------------------------------------


async def get_model_info(call: PackCall, services: PackServices) -> PackReply:
    """Return the models of a folder with what their names reveal, in pages."""
    folder = call.path.get("folder", "checkpoints")
    await _check_folder(services, folder)
    limit, offset = call.integer("limit", 1000), call.integer("offset", 0)
    names = await services.catalog.models(call.member, folder) or []
    page = names[offset : offset + limit]
    found: dict[str, Any] = {name: guessed(name) for name in page}
    if "limit" in call.query:
        found["_meta"] = {"offset": offset, "count": len(page), "total": len(names)}
    return call.json(found)


async def put_model(call: PackCall, services: PackServices) -> PackReply:
    """Tell whether a model is there; the cloud takes none from here."""
    folder, name = call.path["folder"], call.path["filename"]
    await _check_folder(services, folder)
    if not name.lower().endswith((".sft", ".safetensors")):
        raise PlainError("File extension must be .safetensors")
    if len(name) > 255 or ".." in name or name[0] == "." or not _MODEL_NAME.fullmatch(name):
        raise PlainError("Invalid filename")
    if name in (await services.catalog.models(call.member, folder) or []):
        return call.json({"status": "cached"})
    raise PlainError(
        f"The proxy cannot upload models to Comfy Cloud: import {name} there, or choose another "
        "model.",
        kind="forbidden",
    )


async def _check_folder(services: PackServices, folder: str) -> None:
    folders = await services.catalog.model_folders()
    if folder not in folders:
        raise PlainError(f"Invalid folder path, must be one of {', '.join(folders)}")


async def get_languages(call: PackCall, _: PackServices) -> PackReply:
    """Return the languages of the translator: none, as in a pack without one."""
    return call.json([{"name": "NOT INSTALLED", "code": "NOT INSTALLED"}])


async def get_translation(call: PackCall, _: PackServices) -> PackReply:
    """Return a text without directives of its language, which must be `en`."""
    try:
        return call.json(translated(f"lang:{call.path['lang']} {call.path['text']}"))
    except PackNodeError as error:
        raise PlainError(error.message) from None


# --- workflows ------------------------------------------------------------------------------------


async def publish(call: PackCall, services: PackServices) -> PackReply:
    """Show a workflow to the member's clients that have subscribed."""
    name, client_id, workflow = await _fields(call, "name", "client_id", "workflow")
    await services.workflows.publish(call.member, str(client_id), name, workflow)
    return call.json({"status": "success"})


async def subscribe(call: PackCall, services: PackServices) -> PackReply:
    """Send workflows to a client; those that are there come at once."""
    (client_id,) = await _fields(call, "client_id")
    if await services.workflows.subscribe(call.member, str(client_id)):
        return call.json({"status": "success"})
    raise PlainError(repr("Already subscribed"))


async def unsubscribe(call: PackCall, services: PackServices) -> PackReply:
    """Send a client no more workflows."""
    (client_id,) = await _fields(call, "client_id")
    if services.workflows.unsubscribe(call.member, str(client_id)):
        return call.json({"status": "success"})
    raise PlainError(repr(f"No subscriber found with id {client_id}"))


async def _fields(call: PackCall, *names: str) -> list[Any]:
    """Return these fields of a body. Raises `PlainError` in the pack's words."""
    body = await call.read_object()
    missing = next((name for name in names if name not in body), None)
    if missing is not None:
        raise PlainError(repr(missing))
    return [body[name] for name in names]


_plain = partial(PackRoute, plain_errors=True)

ROUTES = (
    _plain("GET", "/api/etn/image/{id}", get_image),
    _plain("PUT", "/api/etn/image/{id}", put_image, twin=False, reads_late=True),
    PackRoute("GET", "/api/etn/model_info", get_model_info),
    PackRoute("GET", "/api/etn/model_info/{folder}", get_model_info),
    PackRoute("PUT", "/api/etn/upload/{folder}/{filename}", put_model),
    PackRoute("GET", "/api/etn/languages", get_languages),
    PackRoute("GET", "/api/etn/translate/{lang}/{text}", get_translation),
    _plain("POST", "/api/etn/workflow/publish", publish),
    _plain("POST", "/api/etn/workflow/subscribe", subscribe),
    _plain("POST", "/api/etn/workflow/unsubscribe", unsubscribe),
)

PACK = Pack("comfyui-tooling-nodes", NODES, ROUTES)
