"""The nodes of ComfyUI-Blender, thin subclasses of core nodes that its add-on finds by name."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from typing import Any

from proxy.translate.events import Told
from proxy.translate.helpers.helper import (
    CONSTANTS,
    Helper,
    Node,
    Result,
    Tells,
    becomes,
    info,
)

_PACK = "ComfyUI-Blender"
_LOW, _HIGH = -2147483648, 2147483647

_ORDER: dict[str, Any] = {"order": ["INT", {"default": 0, "min": _LOW, "max": _HIGH}]}
_GROUP: dict[str, Any] = {"group": ["GROUP", {"forceInput": True}]}
_TEXT: list[Any] = ["STRING", {"default": ""}]
_FLAG: list[Any] = ["BOOLEAN", {"default": False}]
_FLOAT: list[Any] = [
    "FLOAT",
    {"default": 0.0, "min": float(_LOW), "max": float(_HIGH), "step": 0.01},
]


def _whole(default: int = 0, low: int = _LOW) -> list[Any]:
    return ["INT", {"default": default, "min": low, "max": _HIGH, "step": 1}]


def _info(
    name: str, required: Mapping[str, Any], *outputs: tuple[str, str], **more: Any
) -> dict[str, Any]:
    return info(
        name,
        required,
        pack=_PACK,
        category="blender",
        outputs=outputs,
        title=more.pop("title", name.replace("Blender", "Blender ", 1)),
        **more,
    )


def _path(node: Node, name: str) -> Any:
    """A text, as a path where the node is asked for one."""
    value = node.value(name, "")
    as_path = node.value("format_path", False)
    return posixpath.normpath(value) if as_path is True and isinstance(value, str) else value


def _primitive(class_type: str) -> Callable[[Node], None]:
    def become(node: Node) -> None:
        node.become(class_type, {"value": _path(node, "value")}, {"value": "value"})

    return become


def _handed_on(name: str) -> Callable[[Node], None]:
    """What takes the output gets the value itself: a list takes no link to a text."""

    def become(node: Node) -> None:
        value = _path(node, name)
        node.become("PrimitiveString", {"value": value}, {"value": name})
        node.give(0, value)

    return become


def _loader(class_type: str, names: tuple[str, ...], **constants: Any) -> Callable[[Node], None]:
    """A model's name is taken as a path, as the node does."""

    def become(node: Node) -> None:
        inputs = {name: node.inputs[name] for name in names if name in node.inputs}
        for name, value in inputs.items():
            if name.endswith("_name") and isinstance(value, str):
                inputs[name] = posixpath.normpath(value)
        node.become(class_type, {**inputs, **constants}, {name: name for name in names})

    return become


def _downloads(result: Result) -> Told:
    return Told(ui={"3d": [located(text) for text in result.texts]})


def located(path: str) -> dict[str, str]:
    """A path below the output folder as a result shows it."""
    folder, name = posixpath.split(path)
    return {"filename": name, "subfolder": folder, "type": "output"}


def _simple(
    name: str, required: Mapping[str, Any], output: tuple[str, str], class_type: str, **more: Any
) -> Helper:
    CONSTANTS[name] = "value"
    return Helper(
        name,
        _info(name, {**required, **_ORDER, **more}, output, optional=_GROUP, new_style=True),
        _primitive(class_type),
        frozenset({class_type}),
        exact=f"As core's `{class_type}`; the inputs for the add-on are left out.",
    )


_FILES: list[Any] = [[], {"image_upload": True}]
_AS_CORE = "As core's `{}`; the inputs for the add-on are left out."
_LIST = "The value itself goes to what takes it."

HELPERS = (
    _simple(
        "BlenderInputBoolean",
        {"value": ["BOOLEAN", {}]},
        ("BOOLEAN", "BOOLEAN"),
        "PrimitiveBoolean",
        default=_FLAG,
    ),
    _simple(
        "BlenderInputFloat",
        {"value": _FLOAT},
        ("FLOAT", "FLOAT"),
        "PrimitiveFloat",
        default=_FLOAT,
        min=_FLOAT,
        max=_FLOAT,
    ),
    _simple(
        "BlenderInputInt",
        {"value": _whole()},
        ("INT", "INT"),
        "PrimitiveInt",
        default=_whole(),
        min=_whole(_LOW),
        max=_whole(_HIGH),
        step=_whole(1, 1),
        camera_width=_FLAG,
        camera_height=_FLAG,
    ),
    _simple(
        "BlenderInputSeed",
        {"value": _whole()},
        ("INT", "INT"),
        "PrimitiveInt",
        default=_whole(),
        min=_whole(0, 0),
        max=_whole(_HIGH),
        step=_whole(1, 1),
    ),
    _simple(
        "BlenderInputString",
        {"value": ["STRING", {}]},
        ("STRING", "STRING"),
        "PrimitiveString",
        default=_TEXT,
        format_path=_FLAG,
    ),
    _simple(
        "BlenderInputStringMultiline",
        {"value": ["STRING", {"multiline": True}]},
        ("STRING", "STRING"),
        "PrimitiveStringMultiline",
        default=_TEXT,
        format_path=_FLAG,
    ),
    Helper(
        "BlenderInputCombo",
        _info(
            "BlenderInputCombo",
            {
                "value": ["STRING", {}],
                **_ORDER,
                "default": _TEXT,
                "format_path": _FLAG,
                "list": ["STRING", {"default": "", "multiline": True}],
            },
            ("*", "COMBO"),
            optional=_GROUP,
            title="Blender Input Combo Box",
            new_style=True,
        ),
        _handed_on("value"),
        frozenset({"PrimitiveString"}),
        exact=_LIST,
    ),
    Helper(
        "BlenderInputSampler",
        _info(
            "BlenderInputSampler",
            {"sampler_name": ["STRING", {}], **_ORDER, "default": _TEXT},
            ("*", "SAMPLER"),
            optional=_GROUP,
            new_style=True,
        ),
        _handed_on("sampler_name"),
        frozenset({"PrimitiveString"}),
        exact=_LIST,
        differs="The samplers are not listed in the node; `/blender/samplers` has them.",
    ),
    Helper(
        "BlenderInputLoad3D",
        _info(
            "BlenderInputLoad3D",
            {"model_file": ["STRING", {}], **_ORDER},
            ("*", "*"),
            optional=_GROUP,
        ),
        _handed_on("model_file"),
        frozenset({"PrimitiveString"}),
        exact=_LIST,
        differs="The files of `input/3d` are not listed in the node.",
    ),
    Helper(
        "BlenderInputGroup",
        _info(
            "BlenderInputGroup",
            {**_ORDER, "show_title": _FLAG, "compact": _FLAG},
            ("GROUP", "group"),
            new_style=True,
        ),
        lambda node: node.become("PrimitiveBoolean", {"value": True}),
        frozenset({"PrimitiveBoolean"}),
        exact="It is for the add-on alone.",
    ),
    Helper(
        "BlenderInputLoadImage",
        _info(
            "BlenderInputLoadImage",
            {"image": _FILES, **_ORDER},
            ("IMAGE", "IMAGE"),
            ("MASK", "MASK"),
            optional=_GROUP,
        ),
        becomes("LoadImage", {"image": "image"}),
        frozenset({"LoadImage"}),
        exact=_AS_CORE.format("LoadImage"),
    ),
    Helper(
        "BlenderInputLoadMask",
        _info(
            "BlenderInputLoadMask", {"image": _FILES, **_ORDER}, ("MASK", "MASK"), optional=_GROUP
        ),
        becomes("LoadImageMask", {"image": "image"}, channel="alpha"),
        frozenset({"LoadImageMask"}),
        exact=_AS_CORE.format("LoadImageMask"),
    ),
    Helper(
        "BlenderInputLoadCheckpoint",
        _info(
            "BlenderInputLoadCheckpoint",
            {"ckpt_name": ["CheckpointLoaderSimple.ckpt_name"], **_ORDER, "default": _TEXT},
            ("MODEL", "MODEL"),
            ("CLIP", "CLIP"),
            ("VAE", "VAE"),
            optional=_GROUP,
        ),
        _loader("CheckpointLoaderSimple", ("ckpt_name",)),
        frozenset({"CheckpointLoaderSimple"}),
        exact=_AS_CORE.format("CheckpointLoaderSimple"),
    ),
    Helper(
        "BlenderInputLoadDiffusionModel",
        _info(
            "BlenderInputLoadDiffusionModel",
            {
                "unet_name": ["UNETLoader.unet_name"],
                "weight_dtype": ["UNETLoader.weight_dtype"],
                **_ORDER,
                "default": _TEXT,
            },
            ("MODEL", "MODEL"),
            optional=_GROUP,
        ),
        _loader("UNETLoader", ("unet_name", "weight_dtype")),
        frozenset({"UNETLoader"}),
        exact=_AS_CORE.format("UNETLoader"),
    ),
    Helper(
        "BlenderInputLoadLora",
        _info(
            "BlenderInputLoadLora",
            {
                "model": ["MODEL"],
                "lora_name": ["LoraLoaderModelOnly.lora_name"],
                "strength_model": [
                    "FLOAT",
                    {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01},
                ],
                **_ORDER,
                "default": _TEXT,
            },
            ("MODEL", "MODEL"),
            optional=_GROUP,
        ),
        _loader("LoraLoaderModelOnly", ("model", "lora_name", "strength_model")),
        frozenset({"LoraLoaderModelOnly"}),
        exact=_AS_CORE.format("LoraLoaderModelOnly"),
    ),
    Helper(
        "BlenderOutputSaveImage",
        _info(
            "BlenderOutputSaveImage",
            {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "blender"}]},
            hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
            output_node=True,
        ),
        becomes("SaveImage", {"images": "images", "filename_prefix": "filename_prefix"}),
        frozenset({"SaveImage"}),
        exact=_AS_CORE.format("SaveImage"),
    ),
    Helper(
        "BlenderOutputSaveGlb",
        _info(
            "BlenderOutputSaveGlb",
            {
                "mesh": ["SaveGLB.mesh"],
                "filename_prefix": ["STRING", {"default": "3d/blender"}],
            },
            hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
            output_node=True,
            new_style=True,
        ),
        becomes("SaveGLB", {"mesh": "mesh", "filename_prefix": "filename_prefix"}),
        frozenset({"SaveGLB"}),
        exact=_AS_CORE.format("SaveGLB"),
    ),
    Helper(
        "BlenderOutputString",
        _info("BlenderOutputString", {"string": ["*", {}]}, output_node=True),
        becomes("PreviewAny", {"source": "string"}),
        frozenset({"PreviewAny"}),
        exact=_AS_CORE.format("PreviewAny"),
    ),
    Helper(
        "BlenderOutputDownload3D",
        _info(
            "BlenderOutputDownload3D",
            {"model_file": ["STRING", {"forceInput": True}]},
            output_node=True,
        ),
        becomes("PreviewAny", {"source": "model_file"}),
        frozenset({"PreviewAny"}),
        tells=Tells(_downloads),
        exact="The file that the text names.",
        differs="The file can be fetched only where it is an output that the cloud told of.",
    ),
)
