"""ComfyUI-Blender: thin subclasses of core nodes that its add-on finds by name, and its routes."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.packs.nodes import CONSTANTS, SAVED_WITH, Node, PackNode, core, info, named_files, same
from proxy.packs.pack import Pack, PackCall, PackReply, PackRoute, PackServices
from proxy.translate.errors import LocalError
from proxy.translate.reading import object_of
from proxy.userdata.entries import BadNameError, IsFolderError, LeadsOutError, MissingError

_LOW, _HIGH = -2147483648, 2147483647


def _spec(kind: str, tooltip: str = "", **options: Any) -> list[Any]:
    return [kind, {**options, **({"tooltip": tooltip} if tooltip else {})}]


def _integer(tooltip: str = "", default: int = 0, low: int = _LOW, **options: Any) -> list[Any]:
    return _spec("INT", tooltip, default=default, min=low, max=_HIGH, **options)


def _float(tooltip: str = "", default: float = 0.0) -> list[Any]:
    low, high = float(_LOW), float(_HIGH)
    return _spec("FLOAT", tooltip, default=default, min=low, max=high, step=0.01)


def _flag(tooltip: str) -> list[Any]:
    return _spec("BOOLEAN", tooltip, default=False)


_DEFAULT = "Default value of the input in the Blender add-on."
_MIN = "Minimum value of the input in the Blender add-on."
_MAX = "Maximum value of the input in the Blender add-on."
_STEP = "Step size of the input in the Blender add-on."
_ORDER: dict[str, Any] = {
    "order": _integer("Position of the input in the Blender add-on.", control_after_generate=False)
}
_TEXT: list[Any] = _spec("STRING", _DEFAULT, default="")
_INTEGER: list[Any] = _integer(step=1, control_after_generate=False)
_UPLOAD: list[Any] = [[], {"image_upload": True}]


def _range(low: int, least: int) -> dict[str, Any]:
    """Return the inputs of a range that begins at `low`, which itself is not below `least`."""
    return {
        "default": _spec("INT", _DEFAULT, default=0),
        "min": _integer(_MIN, low, least, step=1),
        "max": _integer(_MAX, _HIGH, step=1),
        "step": _integer(_STEP, 1, 1, step=1),
    }


def _blender(name: str, title: str, required: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return the entry of a class, whose `title` follows the name of the program."""
    shown = f"Blender {title}"
    return info(name, required, pack="ComfyUI-Blender", category="blender", title=shown, **more)


def _input(
    name: str,
    title: str,
    first: Mapping[str, Any],
    outputs: Sequence[str | tuple[str, str]],
    rest: Mapping[str, Any] | None = None,
    *,
    new_style: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Return the entry of an input of the add-on's panel, which has an order and a group there."""
    required = {**first, **_ORDER, **(rest or {})}
    group = {"group": ["GROUP", {} if new_style else {"forceInput": True}]}
    return _blender(
        f"BlenderInput{name}",
        f"Input {title}",
        required,
        outputs=outputs,
        optional=group,
        new_style=new_style,
        **more,
    )


def _path(node: Node, name: str) -> Any:
    """Return a text, as a path where the node is asked for one."""
    value = node.value(name, "")
    as_path = node.value("format_path", False)
    return posixpath.normpath(value) if as_path is True and isinstance(value, str) else value


def _primitive(
    name: str,
    title: str,
    class_type: str,
    value: list[Any],
    rest: Mapping[str, Any],
    kind: str,
) -> PackNode:
    """Return an input of one value, which is `kind`; `rest` is what only the add-on reads."""

    def become(node: Node) -> None:
        node.become(class_type, {"value": _path(node, "value")}, {"value": "value"})

    about = f"Display {kind} input in the Blender add-on."
    shown = _input(
        name, title, {"value": value}, [value[0]], rest, new_style=True, description=about
    )
    CONSTANTS.add(f"BlenderInput{name}")
    return PackNode(shown, become, {class_type})


def _handed_on(
    name: str,
    title: str,
    own: str,
    output: str,
    rest: Mapping[str, Any] | None = None,
    **more: Any,
) -> PackNode:
    """Return an input whose value goes into the nodes behind it: a list takes no link to a text."""

    def become(node: Node) -> None:
        value = _path(node, own)
        node.become("PrimitiveString", {"value": value}, {"value": own})
        node.gives[0] = value

    shown = _input(name, title, {own: ["STRING", {}]}, [("*", output)], rest, **more)
    return PackNode(shown, become, {"PrimitiveString"})


def _loader(
    name: str, title: str, class_type: str, outputs: Sequence[str], specs: Mapping[str, Any]
) -> PackNode:
    """Return a loader of a model, whose name is taken as a path."""

    def become(node: Node) -> None:
        inputs = {own: node.inputs[own] for own in specs if own in node.inputs}
        for own, value in inputs.items():
            if own.endswith("_name") and isinstance(value, str):
                inputs[own] = posixpath.normpath(value)
        node.become(class_type, inputs, same(*specs))

    shown = _input(name, f"Load {title}", specs, outputs, {"default": _TEXT})
    return PackNode(shown, become, {class_type})


_WRITTEN = {
    "default": _TEXT,
    "format_path": _flag(
        "If the string value is a file path, format it to be compatible with the operating system "
        "where ComfyUI is running."
    ),
}

_NODES = (
    _primitive(
        "Boolean",
        "Boolean",
        "PrimitiveBoolean",
        ["BOOLEAN", {}],
        {"default": _flag(_DEFAULT)},
        "a boolean",
    ),
    _primitive(
        "Float",
        "Float",
        "PrimitiveFloat",
        _float(),
        {
            "default": _float(_DEFAULT),
            "min": _float(_MIN, float(_LOW)),
            "max": _float(_MAX, float(_HIGH)),
        },
        "a float",
    ),
    _primitive(
        "Int",
        "Integer",
        "PrimitiveInt",
        _INTEGER,
        {
            **_range(_LOW, _LOW),
            "camera_width": _flag("Display a button to set/get the camera width."),
            "camera_height": _flag("Display a button to set/get the camera height."),
        },
        "an integer",
    ),
    _primitive("Seed", "Seed", "PrimitiveInt", _INTEGER, _range(0, 0), "seed"),
    _primitive("String", "String", "PrimitiveString", ["STRING", {}], _WRITTEN, "a string"),
    _primitive(
        "StringMultiline",
        "String Multiline",
        "PrimitiveStringMultiline",
        ["STRING", {"multiline": True}],
        _WRITTEN,
        "a string",
    ),
    _handed_on(
        "Combo",
        "Combo Box",
        "value",
        "COMBO",
        {
            **_WRITTEN,
            "list": _spec(
                "STRING",
                "list of values displayed in the combo box in the Blender add-on (one item per "
                "line).",
                default="",
                multiline=True,
            ),
        },
        new_style=True,
        description="Display a combo box input in the Blender add-on.",
    ),
    _handed_on(
        "Sampler",
        "Sampler",
        "sampler_name",
        "SAMPLER",
        {"default": _spec("STRING", _DEFAULT)},
        new_style=True,
        description="Display the list of samplers in the Blender add-on.",
    ),
    _handed_on("Load3D", "Load 3D", "model_file", "*"),
    core(
        _blender(
            "BlenderInputGroup",
            "Input Group",
            {
                **_ORDER,
                "show_title": _flag("Display the node title as a label in the Blender add-on."),
                "compact": _flag("Display inputs with a compact layout in the Blender add-on."),
            },
            outputs=[("GROUP", "group")],
            new_style=True,
            description="Group inputs into a box in the Blender add-on.",
        ),
        "PrimitiveBoolean",
        {},
        value=True,
    ),
    core(
        _input("LoadImage", "Load Image", {"image": _UPLOAD}, ["IMAGE", "MASK"]),
        "LoadImage",
        same("image"),
    ),
    core(
        _input("LoadMask", "Load Mask", {"image": _UPLOAD}, ["MASK"]),
        "LoadImageMask",
        same("image"),
        channel="alpha",
    ),
    _loader(
        "LoadCheckpoint",
        "Checkpoint",
        "CheckpointLoaderSimple",
        ["MODEL", "CLIP", "VAE"],
        {"ckpt_name": ["CheckpointLoaderSimple.ckpt_name"]},
    ),
    _loader(
        "LoadDiffusionModel",
        "Diffusion Model",
        "UNETLoader",
        ["MODEL"],
        {"unet_name": ["UNETLoader.unet_name"], "weight_dtype": ["UNETLoader.weight_dtype"]},
    ),
    _loader(
        "LoadLora",
        "LoRA",
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
            "Output Save Image",
            {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "blender"}]},
            hidden=SAVED_WITH,
        ),
        "SaveImage",
        same("images", "filename_prefix"),
    ),
    core(
        _blender(
            "BlenderOutputSaveGlb",
            "Output Save Glb",
            {"mesh": ["SaveGLB.mesh"], "filename_prefix": ["STRING", {"default": "3d/blender"}]},
            hidden=SAVED_WITH,
            new_style=True,
            description="Node used by ComfyUI Blender add-on to capture a GLB file output from a "
            "workflow.",
        ),
        "SaveGLB",
        same("mesh", "filename_prefix"),
    ),
    core(
        _blender("BlenderOutputString", "Output String", {"string": ["*", {}]}),
        "PreviewAny",
        {"source": "string"},
    ),
    named_files(
        _blender(
            "BlenderOutputDownload3D",
            "Output Download 3D",
            {"model_file": ["STRING", {"forceInput": True}]},
        ),
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
    return await call.computed(lambda: [entry.listed() for entry in entries if not entry.is_folder])


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
    nodes = object_of(workflow).values()
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
