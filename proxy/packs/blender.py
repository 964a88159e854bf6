"""ComfyUI-Blender: thin subclasses of core nodes that its add-on finds by name, and its routes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.packs.nodes import CONSTANTS, SAVED_WITH, Node, PackNode, core, info, named_files, same
from proxy.packs.pack import Pack, PackCall, PackReply, PackRoute, PackServices
from proxy.translate.errors import LocalError
from proxy.userdata.entries import BadNameError, IsFolderError, LeadsOutError, MissingError

_LOW, _HIGH = -2147483648, 2147483647

_ORDER: dict[str, Any] = {"order": ["INT", {"default": 0, "min": _LOW, "max": _HIGH}]}
_GROUP: dict[str, Any] = {"group": ["GROUP", {"forceInput": True}]}
_STRING: list[Any] = ["STRING", {"default": ""}]
_FLAG: list[Any] = ["BOOLEAN", {"default": False}]
_FLOAT: list[Any] = [
    "FLOAT",
    {"default": 0.0, "min": float(_LOW), "max": float(_HIGH), "step": 0.01},
]
_UPLOAD: list[Any] = [[], {"image_upload": True}]


def _integer_input(default: int = 0, low: int = _LOW) -> list[Any]:
    return ["INT", {"default": default, "min": low, "max": _HIGH, "step": 1}]


def _range(least: list[Any]) -> dict[str, Any]:
    return {
        "default": _integer_input(),
        "min": least,
        "max": _integer_input(_HIGH),
        "step": _integer_input(1, 1),
    }


def _blender(name: str, required: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    title = more.pop("title", name.replace("Blender", "Blender ", 1))
    return info(name, required, pack="ComfyUI-Blender", category="blender", title=title, **more)


def _input(
    name: str,
    first: Mapping[str, Any],
    outputs: Sequence[str | tuple[str, str]],
    rest: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the entry of an input of the add-on's panel, which has an order and a group there."""
    required = {**first, **_ORDER, **(rest or {})}
    return _blender(f"BlenderInput{name}", required, outputs=outputs, optional=_GROUP, **more)


def _path(node: Node, name: str) -> Any:
    """Return a text, as a path where the node is asked for one."""
    value = node.value(name, "")
    as_path = node.value("format_path", False)
    return posixpath.normpath(value) if as_path is True and isinstance(value, str) else value


def _primitive(name: str, class_type: str, value: list[Any], rest: Mapping[str, Any]) -> PackNode:
    """Return an input of one value; `rest` is what only the add-on reads."""

    def become(node: Node) -> None:
        node.become(class_type, {"value": _path(node, "value")}, {"value": "value"})

    shown = _input(name, {"value": value}, [value[0]], rest, new_style=True)
    CONSTANTS.add(f"BlenderInput{name}")
    return PackNode(shown, become, {class_type})


def _handed_on(
    name: str, own: str, output: str, rest: Mapping[str, Any] | None = None, **more: Any
) -> PackNode:
    """Return an input whose value goes into the nodes behind it: a list takes no link to a text."""

    def become(node: Node) -> None:
        value = _path(node, own)
        node.become("PrimitiveString", {"value": value}, {"value": own})
        node.gives[0] = value

    shown = _input(name, {own: ["STRING", {}]}, [("*", output)], rest, **more)
    return PackNode(shown, become, {"PrimitiveString"})


def _loader(
    name: str, class_type: str, outputs: Sequence[str], specs: Mapping[str, Any]
) -> PackNode:
    """Return a loader of a model, whose name is taken as a path."""

    def become(node: Node) -> None:
        inputs = {own: node.inputs[own] for own in specs if own in node.inputs}
        for own, value in inputs.items():
            if own.endswith("_name") and isinstance(value, str):
                inputs[own] = posixpath.normpath(value)
        node.become(class_type, inputs, same(*specs))

    return PackNode(_input(name, specs, outputs, {"default": _STRING}), become, {class_type})


_WRITTEN = {"default": _STRING, "format_path": _FLAG}

_NODES = (
    _primitive("Boolean", "PrimitiveBoolean", ["BOOLEAN", {}], {"default": _FLAG}),
    _primitive(
        "Float", "PrimitiveFloat", _FLOAT, {"default": _FLOAT, "min": _FLOAT, "max": _FLOAT}
    ),
    _primitive(
        "Int",
        "PrimitiveInt",
        _integer_input(),
        {**_range(_integer_input(_LOW)), "camera_width": _FLAG, "camera_height": _FLAG},
    ),
    _primitive("Seed", "PrimitiveInt", _integer_input(), _range(_integer_input(0, 0))),
    _primitive("String", "PrimitiveString", ["STRING", {}], _WRITTEN),
    _primitive(
        "StringMultiline", "PrimitiveStringMultiline", ["STRING", {"multiline": True}], _WRITTEN
    ),
    _handed_on(
        "Combo",
        "value",
        "COMBO",
        {**_WRITTEN, "list": ["STRING", {"default": "", "multiline": True}]},
        title="Blender Input Combo Box",
        new_style=True,
    ),
    _handed_on("Sampler", "sampler_name", "SAMPLER", {"default": _STRING}, new_style=True),
    _handed_on("Load3D", "model_file", "*"),
    core(
        _blender(
            "BlenderInputGroup",
            {**_ORDER, "show_title": _FLAG, "compact": _FLAG},
            outputs=[("GROUP", "group")],
            new_style=True,
        ),
        "PrimitiveBoolean",
        {},
        value=True,
    ),
    core(_input("LoadImage", {"image": _UPLOAD}, ["IMAGE", "MASK"]), "LoadImage", same("image")),
    core(
        _input("LoadMask", {"image": _UPLOAD}, ["MASK"]),
        "LoadImageMask",
        same("image"),
        channel="alpha",
    ),
    _loader(
        "LoadCheckpoint",
        "CheckpointLoaderSimple",
        ["MODEL", "CLIP", "VAE"],
        {"ckpt_name": ["CheckpointLoaderSimple.ckpt_name"]},
    ),
    _loader(
        "LoadDiffusionModel",
        "UNETLoader",
        ["MODEL"],
        {"unet_name": ["UNETLoader.unet_name"], "weight_dtype": ["UNETLoader.weight_dtype"]},
    ),
    _loader(
        "LoadLora",
        "LoraLoaderModelOnly",
        ["MODEL"],
        {
            "model": ["MODEL"],
            "lora_name": ["LoraLoaderModelOnly.lora_name"],
            "strength_model": [
                "FLOAT",
                {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01},
            ],
        },
    ),
    core(
        _blender(
            "BlenderOutputSaveImage",
            {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "blender"}]},
            hidden=SAVED_WITH,
        ),
        "SaveImage",
        same("images", "filename_prefix"),
    ),
    core(
        _blender(
            "BlenderOutputSaveGlb",
            {"mesh": ["SaveGLB.mesh"], "filename_prefix": ["STRING", {"default": "3d/blender"}]},
            hidden=SAVED_WITH,
            new_style=True,
        ),
        "SaveGLB",
        same("mesh", "filename_prefix"),
    ),
    core(
        _blender("BlenderOutputString", {"string": ["*", {}]}), "PreviewAny", {"source": "string"}
    ),
    named_files(
        _blender("BlenderOutputDownload3D", {"model_file": ["STRING", {"forceInput": True}]}),
        "model_file",
        "3d",
    ),
)


# --- routes of its add-on ---------------------------------------------------------------------


async def get_samplers(call: PackCall, services: PackServices) -> PackReply:
    """Return the names of the samplers."""
    info = await services.catalog.node_class("KSampler")
    required = {} if info is None else info["input"].get("required", {})
    kind, *options = required.get("sampler_name", [[]])
    return call.json(options[0].get("options", []) if kind == "COMBO" else kind)


async def get_workflows(call: PackCall, services: PackServices) -> PackReply:
    """Return the member's saved workflows, as `GET /v2/userdata` lists them."""
    try:
        entries = await services.userdata.tree(call.member, "workflows")
    except MissingError:
        entries = []
    return call.json([entry.listed() for entry in entries if not entry.is_folder])


async def get_workflow(call: PackCall, services: PackServices) -> PackReply:
    """Return one saved workflow in API format, by its path as they are listed."""
    path = call.query.get("filepath", "")
    if not path:
        return call.text("The filepath query parameter is required", 400)
    try:
        data, _ = await services.userdata.read(call.member, path)
    except (BadNameError, IsFolderError, LeadsOutError, MissingError):
        return call.text("File not found", 404)
    workflow = call.parse(data)
    nodes = workflow.values() if isinstance(workflow, dict) else ()
    if nodes and all(isinstance(node, dict) and "class_type" in node for node in nodes):
        return call.json(workflow)
    raise LocalError(
        "not_api_format",
        "This workflow is in the format of the web interface; export it in API format (Workflow > "
        "Export (API)) and save that.",
        details=path,
    )


_ROUTES = (
    PackRoute("GET", "/blender/samplers", get_samplers),
    PackRoute("GET", "/blender/workflows", get_workflows),
    PackRoute("GET", "/blender/workflow", get_workflow),
)

PACK = Pack("ComfyUI-Blender", _NODES, _ROUTES)
