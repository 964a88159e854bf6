"""comfyui-tooling-nodes (3.3.0), which Krita AI Diffusion brings along, and what else Krita asks of
a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from proxy.packs.nodes import (
    FileSource,
    Mask,
    Node,
    PackNode,
    PackNodeError,
    Reads,
    Result,
    ResultMessages,
    core,
    frame,
    info,
    loads,
    preview,
)
from proxy.translate.events import NodeMessages

#: What a text output is sent as.
_TEXT_TYPES = {"text": "text/plain", "markdown": "text/markdown", "html": "text/html"}

_DIRECTIVE = re.compile(r"lang:(\w\w)")

#: The value that `MaskComposite` takes off before `JoinImageWithAlpha` inverts, so that 8 bits
#: come out as they went in.
_HAIR = 0.00001


def _info(
    name: str, required: Mapping[str, Any], category: str = "external_tooling", **more: Any
) -> dict[str, Any]:
    return info(
        name, required, pack="comfyui-tooling-nodes", category=category, new_style=True, **more
    )


_HIDDEN = {"prompt": ["PROMPT"], "extra_pnginfo": ["EXTRA_PNGINFO"]}


def _combo(default: str, options: list[str], **more: Any) -> list[Any]:
    return ["COMBO", {**more, "default": default, "multiselect": False, "options": options}]


def _text_input(default: str | None = None, *, multiline: bool = False) -> list[Any]:
    options = {} if default is None else {"default": default}
    return ["STRING", {**options, "multiline": multiline}]


# --- pictures in ---------------------------------------------------------------------------


def _load_image(own: str) -> Callable[[Node], None]:
    """Return what makes a node `LoadImage` of the file in its input `own`, with a mask."""

    def become(node: Node) -> None:
        name, mask = node.picture.name, node.picture.mask
        node.become("LoadImage", {"image": name}, {"image": own})
        node.gives[1] = None
        if mask is not None:
            load = {"image": mask, "channel": "red"}
            node.gives[1] = node.add("mask", "LoadImageMask", load, silent=False)

    return become


# --- pictures out --------------------------------------------------------------------------


def _format(inputs: Mapping[str, Any]) -> str:
    return str(inputs.get("format", "PNG")).upper()


def _png(_: Mapping[str, Any]) -> str:
    return "PNG"


def _cached(result: Result) -> NodeMessages:
    images = [
        {"source": "http", "id": item.id, "content-type": item.content_type, "type": "output"}
        for item in result.items
    ]
    return NodeMessages(ui={"images": images})


def _sent(result: Result) -> NodeMessages:
    number = 2 if result.inputs.get("format", "PNG") == "PNG" else 1
    frames = tuple(frame(result, item.data, number) for item in result.items)
    images = [
        {"source": "websocket", "content-type": item.content_type, "type": "output"}
        for item in result.items
    ]
    return NodeMessages(frames, {"images": images})


def _krita_output(result: Result) -> NodeMessages:
    sent = _sent(replace(result, inputs={}))
    inputs = result.inputs
    about = {
        "name": inputs.get("name"),
        "offset_x": inputs.get("x"),
        "offset_y": inputs.get("y"),
        "batch_mode": inputs.get("batch_mode"),
        "resize_canvas": inputs.get("resize_canvas"),
    }
    return NodeMessages(sent.messages, {**(sent.ui or {}), "info": [about]})


def _krita_text(result: Result) -> NodeMessages:
    type_ = _TEXT_TYPES.get(str(result.inputs.get("type")), "text/plain")
    name = result.inputs.get("name")
    texts = [{"name": name, "text": text, "content-type": type_} for text in result.texts]
    return NodeMessages(ui={"text": texts})


# --- what computes a little ----------------------------------------------------------------


def _apply_mask(node: Node) -> None:
    """Apply one mask to each picture, or one mask to all, as alpha that is not inverted."""
    image = node.inputs.get("image")
    of_image, of_mask = node.size(image), node.size(node.inputs.get("mask"))
    if of_image is not None and of_mask is not None and of_image != of_mask:
        shown = (f"torch.Size([{height}, {width}])" for width, height in (of_image, of_mask))
        raise PackNodeError(
            "AssertionError", "Image size {} must match mask size {}".format(*shown)
        )
    size = node.add("size", "GetImageSize", {"image": image})
    as_image = node.add("mask-image", "MaskToImage", {"mask": node.inputs.get("mask")})
    repeat = {"image": as_image, "amount": [size[0], 2]}
    repeated = node.add("repeated", "RepeatImageBatch", repeat)
    mask = node.add("mask", "ImageToMask", {"image": repeated, "channel": "red"})
    inverted = node.add("inverted", "InvertMask", {"mask": mask})
    solid = {"value": _HAIR, "width": [size[0], 0], "height": [size[0], 1]}
    hair = node.add("hair", "SolidMask", solid)
    take_off = {"destination": inverted, "source": hair, "x": 0, "y": 0, "operation": "subtract"}
    alpha = node.add("alpha", "MaskComposite", take_off)
    names = {"image": "image", "alpha": "mask"}
    node.become("JoinImageWithAlpha", {"image": image, "alpha": alpha}, names)


def _translate(node: Node) -> None:
    text = node.value("text", "")
    plain = translated(text) if isinstance(text, str) else text
    node.become("PrimitiveString", {"value": plain}, {"value": "text"})


def translated(text: str) -> str:
    """Return a text without its directives `lang:en`, as the pack does without a translator.

    Raises `PackNodeError` for another language.
    """
    parts = _DIRECTIVE.split(text)
    for language in parts[1::2]:
        if language != "en":
            raise PackNodeError(
                "ValueError",
                f"Invalid language directive lang:{language} - {language} is not a known language "
                "code. Available languages: NOT INSTALLED, en",
            )
    return " ".join(part.strip() for part in parts[::2] if part.strip())


def _loads(name: str, own: str, title: str, source: FileSource, mask: Mask) -> PackNode:
    shown = _info(
        name, {own: _text_input()}, outputs=[("IMAGE", "image"), ("MASK", "mask")], title=title
    )
    reads = Reads(own, source, mask)
    return PackNode(shown, _load_image(own), {"LoadImage", "LoadImageMask"}, reads)


def _shows(
    name: str, title: str, required: Mapping[str, Any], messages: ResultMessages, **more: Any
) -> PackNode:
    inputs = {"images": ["IMAGE", {}], **required}
    shown = _info(name, inputs, hidden=_HIDDEN, title=title, **more)
    return PackNode(shown, preview, {"PreviewImage"}, messages=messages)


_FORMATS = {"format": _combo("PNG", ["PNG", "JPEG"])}

NODES = (
    _loads("ETN_LoadImageCache", "id", "Load Image from Cache", "cache", Mask.ALPHA_OR_RED),
    _loads("ETN_LoadImageBase64", "image", "Load Image (Base64)", "base64", Mask.ALPHA_OR_NONE),
    loads(
        _info(
            "ETN_LoadMaskBase64",
            {"mask": _text_input()},
            outputs=[("MASK", "mask")],
            title="Load Mask (Base64)",
        ),
        "LoadImageMask",
        "image",
        Reads("mask", "base64", Mask.RED),
        channel="red",
    ),
    _shows(
        "ETN_SaveImageCache",
        "Save Image to Cache",
        _FORMATS,
        ResultMessages(_cached, _format, carries=False),
    ),
    _shows(
        "ETN_SendImageWebSocket", "Send Image (WebSocket)", _FORMATS, ResultMessages(_sent, _format)
    ),
    PackNode(
        _info(
            "ETN_ApplyMaskToImage",
            {"image": ["IMAGE", {}], "mask": ["MASK", {}]},
            outputs=[("IMAGE", "masked")],
            title="Apply Mask to Image",
        ),
        _apply_mask,
        {
            *("GetImageSize", "MaskToImage", "RepeatImageBatch", "ImageToMask", "InvertMask"),
            *("SolidMask", "MaskComposite", "JoinImageWithAlpha"),
        },
        asks="ndim",
    ),
    PackNode(
        _info(
            "ETN_Translate",
            {"text": _text_input(multiline=True)},
            outputs=[("STRING", "translation")],
            title="Translate Text",
        ),
        _translate,
        {"PrimitiveString"},
    ),
    _shows(
        "ETN_KritaOutput",
        "Krita Output",
        {
            "x": ["INT", {"display_name": "offset x", "default": 0}],
            "y": ["INT", {"display_name": "offset y", "default": 0}],
            "name": _text_input(""),
            "batch_mode": _combo(
                "default", ["default", "images", "animation", "layers"], display_name="batch mode"
            ),
            "resize_canvas": ["BOOLEAN", {"display_name": "resize canvas", "default": False}],
        },
        ResultMessages(_krita_output, _png),
        category="krita",
    ),
    core(
        _info(
            "ETN_KritaSendText",
            {
                "value": ["*", {}],
                "name": _text_input("Output"),
                "type": _combo("text", ["text", "markdown", "html"]),
            },
            hidden=_HIDDEN,
            category="krita",
            title="Send Text",
        ),
        "PreviewAny",
        {"source": "value"},
        messages=ResultMessages(_krita_text),
    ),
)


# --- what Krita asks of a server ------------------------------------------------------------

#: The classes that Krita AI Diffusion requires of a server by default, by pack.
KRITA_REQUIRES: Mapping[str, tuple[str, ...]] = {
    "ControlNet Preprocessors (comfyui_controlnet_aux)": (
        "InpaintPreprocessor",
        "DepthAnythingV2Preprocessor",
    ),
    "IP-Adapter (ComfyUI_IPAdapter_plus)": ("IPAdapterModelLoader", "IPAdapter"),
    "Inpaint Nodes (comfyui-inpaint-nodes)": (
        "INPAINT_LoadFooocusInpaint",
        "INPAINT_ShrinkMask",
        "INPAINT_StabilizeMask",
        "INPAINT_ColorMatch",
    ),
    "External Tooling Nodes (comfyui-tooling-nodes)": (
        "ETN_LoadImageCache",
        "ETN_SaveImageCache",
        "ETN_Translate",
    ),
}
