"""SideFX's Houdini bridge: nodes for the names of files and for texts, and its routes."""

from __future__ import annotations

from proxy.packs.nodes import core, info, named_files
from proxy.packs.pack import Pack, PackCall, PackReply, PackRoute, PackServices
from proxy.translate import codec
from proxy.translate.errors import LocalError

_NODES = (
    named_files(
        info(
            "HouCuiStringAsImage",
            {"image_path": ["STRING", {"tooltip": "The image path to output."}]},
            pack="houdini-connection",
            category="",
            title="String To Image Helper",
            description="treat input string as image path and provide given image as output",
        ),
        "image_path",
        "images",
    ),
    core(
        info(
            "HouStringPassThrough",
            {"str_in": ["STRING", {"forceInput": True, "tooltip": "a string"}]},
            pack="houdini-connection",
            category="",
            outputs=[("STRING", "str_out")],
            title="String Pass Through",
            description="noop",
        ),
        "PrimitiveString",
        {"value": "str_in"},
    ),
)


# --- routes of the bridge -------------------------------------------------------------------------


async def refresh_images(call: PackCall, services: PackServices) -> PackReply:
    """Let the web pages of the member reload all pictures."""
    services.notices.leave(call.member, "refresh_all")
    return call.json({"status": "ok"})


async def refresh_image(call: PackCall, services: PackServices) -> PackReply:
    """Let the web pages of the member reload a picture."""
    return await _image_notice(call, services, "refresh")


async def create_loader(call: PackCall, services: PackServices) -> PackReply:
    """Let the web pages of the member make a node that loads a picture."""
    return await _image_notice(call, services, "create_loader")


async def _image_notice(call: PackCall, services: PackServices, command: str) -> PackReply:
    body = await call.read_object()
    if "image" not in body:
        raise LocalError("invalid_body", "The body must name a picture as image.")
    services.notices.leave(call.member, command, {"image": body["image"]})
    return call.json({"status": "ok"})


async def get_notices(call: PackCall, services: PackServices) -> PackReply:
    """Return the notices of the last seconds, those after `since` (seconds since 1970)."""
    since = (await call.read_object()).get("since", 0)
    if isinstance(since, bool) or not isinstance(since, int | float):
        raise LocalError("invalid_body", "since must be a number of seconds.")
    notices = services.notices.since(call.member, since)
    shown = [[notice.at, notice.command, codec.loads(notice.argument)] for notice in notices]
    return call.json({"status": "ok", "messages": shown})


async def interrupt(call: PackCall, _: PackServices) -> PackReply:
    """Stop a job, whether it runs or waits."""
    prompt_id = (await call.read_object()).get("prompt_id")
    if not isinstance(prompt_id, str):
        raise LocalError("invalid_body", "The body must name a job as prompt_id.")
    await call.cancel(prompt_id)
    return call.json({"status": "ok"})


_ROUTES = (
    PackRoute("POST", "/sidefx_houdini/command/refresh_all_images", refresh_images),
    PackRoute("POST", "/sidefx_houdini/command/refresh_image", refresh_image),
    PackRoute("POST", "/sidefx_houdini/command/create_loader", create_loader),
    PackRoute("POST", "/sidefx_houdini/messages/get", get_notices),
    PackRoute("POST", "/sidefx_houdini/interrupt", interrupt),
)

PACK = Pack("houdini-connection", _NODES, _ROUTES)
