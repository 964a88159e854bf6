"""ComfyUI-Workflow-to-API-Converter-Endpoint: a route that converts files of ComfyUI's editor."""

from __future__ import annotations

from functools import partial

from proxy.packs.pack import Pack, PackCall, PackReply, PackRoute, PackServices
from proxy.runtime import randomness
from proxy.translate import editor
from proxy.translate.errors import LocalError

NAME = "comfyui-workflow-to-api-converter-endpoint"
_ABOUT = {
    "name": "ComfyUI Workflow to API Converter",
    "version": "2.0.9",
    "description": "Converts the format of ComfyUI's editor to that of the API.",
    "usage": "POST a file of the editor; the answer is the `prompt` of POST /prompt.",
    "repository": f"https://github.com/SethRobinson/{NAME}",
}


async def about(call: PackCall, _: PackServices) -> PackReply:
    """Return the pack's description of itself."""
    return call.json(_ABOUT)


async def convert(call: PackCall, services: PackServices) -> PackReply:
    """Return the graph of a file of the editor in API format; one that has it already unchanged."""
    workflow = await call.read_object()
    if not editor.is_editors(workflow):
        if not any(isinstance(node, dict) and "class_type" in node for node in workflow.values()):
            raise LocalError(
                "invalid_workflow",
                "The body must be a workflow as ComfyUI's editor saves it, with `nodes` and "
                "`links`.",
            )
        return call.json(workflow)
    classes = editor.named(workflow, await services.catalog.classes(call.member))
    return await call.computed(partial(editor.prompt_of, workflow, classes, randomness.choice))


PACK = Pack(
    NAME,
    routes=(
        PackRoute("GET", "/workflow/convert", about),
        PackRoute("POST", "/workflow/convert", convert, plain_errors=True),
    ),
)
