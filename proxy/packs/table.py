"""The packs of helper nodes in one table."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from proxy.packs import tooling
from proxy.packs.nodes import (
    CONSTANTS,
    Helper,
    Mask,
    Node,
    Reads,
    Result,
    Tells,
    core,
    info,
    loads,
    refusal,
    same,
)
from proxy.translate.events import Binary, Event, Message, Told
from proxy.translate.jobs import section

_SAVED_WITH = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


# --- SwarmUI: nodes that carry pictures, sound and videos (SwarmComfyCommon) ------------------

#: What SwarmUI is told before a picture, an animation and a text, as value and maximum.
_PICTURE, _ANIMATION, _TEXT = 12345, 12346, 12347


def _announced(number: int, frames: list[Binary]) -> Told:
    messages: list[Message] = []
    for one in frames:
        messages += (Event("progress", {"value": number, "max": number}), one)
    return Told(tuple(messages), again=True)


def _encoding(inputs: Mapping[str, Any]) -> str:
    return "BMP" if inputs.get("bit_depth") == "raw" else "PNG"


def _pictures(result: Result) -> Told:
    raw = result.inputs.get("bit_depth") == "raw"
    format_, event = (1, 10) if raw else (2, 1)
    frames = [tooling.frame(result, item.data, format_, event) for item in result.items]
    return _announced(_PICTURE, frames)


def _animations(result: Result) -> Told:
    return _announced(_ANIMATION, [tooling.frame(result, item.data, 3) for item in result.items])


def _metadata(result: Result) -> Told:
    text = f"{result.inputs.get('key')}:{result.texts[0] if result.texts else ''}"
    return _announced(_TEXT, [tooling.frame(result, text.encode(), 0, 3)])


def _save(node: Node) -> None:
    if node.value("bit_depth", "8bit") not in ("8bit", "raw"):
        reason = "the files of Comfy Cloud have 8 bits; use 8bit or raw"
        raise refusal(node.id, node.graph, "bit_depth", reason)
    tooling.preview(node)


def _swarm(
    name: str, required: Mapping[str, Any], folder: str = "images", **more: Any
) -> dict[str, Any]:
    return info(name, required, pack="SwarmComfyCommon", category=f"SwarmUI/{folder}", **more)


def _base64(kind: str, class_type: str, own: str, *outputs: str) -> Helper:
    name, spec = f"{kind}_base64", ["STRING", {"multiline": True}]
    shown = _swarm(f"SwarmLoad{kind.title()}B64", {name: spec}, outputs=outputs)
    return loads(shown, class_type, own, Reads(name, "base64", kind=kind))


_SWARM = (
    _base64("image", "LoadImage", "image", "IMAGE", "MASK"),
    _base64("video", "LoadVideo", "file", "VIDEO"),
    _base64("audio", "LoadAudio", "audio", "AUDIO"),
    Helper(
        _swarm(
            "SwarmSaveImageWS",
            {"images": ["IMAGE"]},
            optional={"bit_depth": [["8bit", "raw"], {"default": "8bit"}]},
        ),
        _save,
        {"PreviewImage"},
        tells=Tells(_pictures, _encoding, again=True),
    ),
    core(
        _swarm(
            "SwarmSaveAnimatedWebpWS",
            {
                "images": ["IMAGE"],
                "fps": ["FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}],
                "lossless": ["BOOLEAN", {"default": True}],
                "quality": ["INT", {"default": 80, "min": 0, "max": 100}],
                "method": [["default", "fastest", "slowest"]],
            },
            folder="video",
        ),
        "SaveAnimatedWEBP",
        same("images", "fps", "lossless", "quality", "method"),
        tells=Tells(_animations, again=True),
        filename_prefix="swarm",
    ),
    core(
        _swarm("SwarmAddSaveMetadataWS", {"key": ["STRING", {}], "value": ["STRING", {}]}),
        "PreviewAny",
        {"source": "value"},
        tells=Tells(_metadata, again=True),
    ),
)


# --- ComfyUI-Easy-Use: a picture as base64 ---------------------------------------------------


def _load_easy(node: Node) -> None:
    """The loaded picture continues; the node itself shows it, as `image_output` asks for."""
    picture = node.picture
    image = node.add("image", "LoadImage", {"image": picture.name}, silent=False)
    node.gives[0] = image
    if picture.mask is not None:
        load = {"image": picture.mask, "channel": "red"}
        node.gives[1] = node.add("mask", "LoadImageMask", load, silent=False)
    else:
        ones = {"value": 1.0, "width": picture.width, "height": picture.height}
        node.gives[1] = node.add("mask", "SolidMask", ones, silent=False)
    names = {"images": "base64_data", "filename_prefix": "save_prefix"}
    if node.value("image_output") in ("Save", "Hide/Save"):
        prefix = node.value("save_prefix", "ComfyUI")
        node.become("SaveImage", {"images": image, "filename_prefix": prefix}, names)
    else:
        node.become("PreviewImage", {"images": image}, names)


def _shows_nothing(inputs: Mapping[str, Any]) -> bool:
    return inputs.get("image_output") in ("Hide", "Hide/Save")


_EASY_USE = (
    Helper(
        info(
            "easy loadImageBase64",
            {
                "base64_data": ["STRING", {"default": ""}],
                "image_output": [["Hide", "Preview", "Save", "Hide/Save"], {"default": "Preview"}],
                "save_prefix": ["STRING", {"default": "ComfyUI"}],
            },
            hidden=_SAVED_WITH,
            pack="ComfyUI-Easy-Use",
            category="EasyUse/Image/LoadImage",
            outputs=["IMAGE", "MASK"],
            title="Load Image (Base64)",
            output_node=True,
        ),
        _load_easy,
        {"LoadImage", "LoadImageMask", "SolidMask", "PreviewImage", "SaveImage"},
        reads=Reads("base64_data", "base64", Mask.ALPHA_OR_ONES),
        tells=Tells(lambda _: Told(), when=_shows_nothing),
    ),
)


# --- ComfyUI-Blender: thin subclasses of core nodes that its add-on finds by name --------------

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


def _whole(default: int = 0, low: int = _LOW) -> list[Any]:
    return ["INT", {"default": default, "min": low, "max": _HIGH, "step": 1}]


def _range(least: list[Any]) -> dict[str, Any]:
    return {"default": _whole(), "min": least, "max": _whole(_HIGH), "step": _whole(1, 1)}


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
    """An input of the add-on's panel, which has an order and a group there."""
    required = {**first, **_ORDER, **(rest or {})}
    return _blender(f"BlenderInput{name}", required, outputs=outputs, optional=_GROUP, **more)


def _path(node: Node, name: str) -> Any:
    """A text, as a path where the node is asked for one."""
    value = node.value(name, "")
    as_path = node.value("format_path", False)
    return posixpath.normpath(value) if as_path is True and isinstance(value, str) else value


def _primitive(name: str, class_type: str, value: list[Any], rest: Mapping[str, Any]) -> Helper:
    """An input of one value; `rest` is what only the add-on reads."""

    def become(node: Node) -> None:
        node.become(class_type, {"value": _path(node, "value")}, {"value": "value"})

    shown = _input(name, {"value": value}, [value[0]], rest, new_style=True)
    CONSTANTS.add(f"BlenderInput{name}")
    return Helper(shown, become, {class_type})


def _handed_on(
    name: str, own: str, output: str, rest: Mapping[str, Any] | None = None, **more: Any
) -> Helper:
    """What takes the output gets the value itself: a list takes no link to a text."""

    def become(node: Node) -> None:
        value = _path(node, own)
        node.become("PrimitiveString", {"value": value}, {"value": own})
        node.gives[0] = value

    shown = _input(name, {own: ["STRING", {}]}, [("*", output)], rest, **more)
    return Helper(shown, become, {"PrimitiveString"})


def _loader(name: str, class_type: str, outputs: Sequence[str], specs: Mapping[str, Any]) -> Helper:
    """A model's name is taken as a path, as the node does."""

    def become(node: Node) -> None:
        inputs = {own: node.inputs[own] for own in specs if own in node.inputs}
        for own, value in inputs.items():
            if own.endswith("_name") and isinstance(value, str):
                inputs[own] = posixpath.normpath(value)
        node.become(class_type, inputs, same(*specs))

    return Helper(_input(name, specs, outputs, {"default": _STRING}), become, {class_type})


def located(path: str) -> dict[str, str]:
    """A path below the output folder as a result shows it."""
    folder, name = posixpath.split(path)
    return {"filename": name, "subfolder": folder, "type": "output"}


def _named_files(shown: Mapping[str, Any], own: str, key: str) -> Helper:
    """Tells of the files that a text names."""
    return core(
        shown,
        "PreviewAny",
        {"source": own},
        tells=Tells(lambda result: Told(ui={key: [located(text) for text in result.texts]})),
    )


_WRITTEN = {"default": _STRING, "format_path": _FLAG}

_BLENDER = (
    _primitive("Boolean", "PrimitiveBoolean", ["BOOLEAN", {}], {"default": _FLAG}),
    _primitive(
        "Float", "PrimitiveFloat", _FLOAT, {"default": _FLOAT, "min": _FLOAT, "max": _FLOAT}
    ),
    _primitive(
        "Int",
        "PrimitiveInt",
        _whole(),
        {**_range(_whole(_LOW)), "camera_width": _FLAG, "camera_height": _FLAG},
    ),
    _primitive("Seed", "PrimitiveInt", _whole(), _range(_whole(0, 0))),
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
            hidden=_SAVED_WITH,
        ),
        "SaveImage",
        same("images", "filename_prefix"),
    ),
    core(
        _blender(
            "BlenderOutputSaveGlb",
            {"mesh": ["SaveGLB.mesh"], "filename_prefix": ["STRING", {"default": "3d/blender"}]},
            hidden=_SAVED_WITH,
            new_style=True,
        ),
        "SaveGLB",
        same("mesh", "filename_prefix"),
    ),
    core(
        _blender("BlenderOutputString", {"string": ["*", {}]}), "PreviewAny", {"source": "string"}
    ),
    _named_files(
        _blender("BlenderOutputDownload3D", {"model_file": ["STRING", {"forceInput": True}]}),
        "model_file",
        "3d",
    ),
)


# --- SideFX's Houdini bridge: names of files and texts ---------------------------------------

_HOUDINI = (
    _named_files(
        info(
            "HouCuiStringAsImage",
            {"image_path": ["STRING", {"tooltip": "The image path to output."}]},
            pack="houdini-connection",
            category="",
            title="String To Image Helper",
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
        ),
        "PrimitiveString",
        {"value": "str_in"},
    ),
)


# --- pictures from an address, which the proxy fetches from allowed hosts alone --------------

_URLS = (
    loads(
        info(
            "LoadImageFromUrl",
            {"image": ["STRING", {"default": "", "multiline": True}]},
            optional={"keep_alpha_channel": ["BOOLEAN", {"default": False}]},
            pack="comfyui-art-venture",
            category="Art Venture/Image",
            outputs=[("IMAGE", "images"), ("MASK", "masks")],
            title="Load Image From URL",
        ),
        "LoadImage",
        "image",
        Reads("image", "url"),
    ),
    loads(
        info(
            "LoadImageFromHttpURL",
            {"image_url": ["STRING", {"default": ""}]},
            pack="ComfyUI_LoadImageFromHttpURL",
            category="jerrywap/loaders",
            outputs=["IMAGE"],
            title="Load Image from HTTP URL",
        ),
        "LoadImage",
        "image",
        Reads("image_url", "url"),
    ),
)


# --- the table -------------------------------------------------------------------------------

#: All helpers by their class; those of a pack stand together.
HELPERS: Mapping[str, Helper] = {
    one.name: one for one in (*tooling.HELPERS, *_SWARM, *_EASY_USE, *_BLENDER, *_HOUDINI, *_URLS)
}


def offered(classes: Mapping[str, Any], *, preferred: bool) -> dict[str, dict[str, Any]]:
    """The entries of the helper classes that can stand beside the cloud's `classes`.

    A class that the cloud has is left to it unless ours are `preferred`; one whose core nodes the
    cloud lacks cannot run. An input written as `[Class.input]` is as the cloud's class has it.
    """
    return {
        name: _filled(helper.info, classes)
        for name, helper in HELPERS.items()
        if (preferred or name not in classes) and helper.needs <= classes.keys()
    }


def _filled(info: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, Any]:
    groups = {
        group: {name: _spec(spec, classes) for name, spec in specs.items()}
        for group, specs in info["input"].items()
    }
    return {**info, "input": groups}


def _spec(spec: Any, classes: Mapping[str, Any]) -> Any:
    if not (isinstance(spec, list) and len(spec) == 1 and isinstance(spec[0], str)):
        return spec
    class_type, dot, name = spec[0].partition(".")
    info = classes.get(class_type)
    if not dot or not isinstance(info, Mapping):
        return spec
    return section(info.get("input"), "required").get(name, spec)
