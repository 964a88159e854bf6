"""comfyui-tooling-nodes (3.3.0), which Krita AI Diffusion brings along, what else Krita asks of a
server, and core's `SaveImageWebsocket`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from proxy.packs.nodes import (
    FileSource,
    Helper,
    HelperFailedError,
    Mask,
    Node,
    Reads,
    Result,
    Tells,
    core,
    info,
    loads,
)
from proxy.translate.events import Binary, Event, Message, Preview, Told

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


def _text(default: str | None = None, *, multiline: bool = False) -> list[Any]:
    options = {} if default is None else {"default": default}
    return ["STRING", {**options, "multiline": multiline}]


# --- pictures in ---------------------------------------------------------------------------


def _load_image(own: str) -> Callable[[Node], None]:
    """Becomes `LoadImage` of the picture that the input `own` tells, with its mask beside it."""

    def become(node: Node) -> None:
        name, mask = node.picture.name, node.picture.mask
        node.become("LoadImage", {"image": name}, {"image": own})
        node.gives[1] = None
        if mask is not None:
            load = {"image": mask, "channel": "red"}
            node.gives[1] = node.add("mask", "LoadImageMask", load, silent=False)

    return become


# --- pictures out --------------------------------------------------------------------------


def preview(node: Node) -> None:
    """Becomes `PreviewImage`, whose files the client is told of in the words of the pack."""
    node.become("PreviewImage", {"images": node.inputs.get("images")}, {"images": "images"})


def _format(inputs: Mapping[str, Any]) -> str:
    return str(inputs.get("format", "PNG")).upper()


def _png(_: Mapping[str, Any]) -> str:
    return "PNG"


def frame(result: Result, data: bytes, format_: int, event: int = 1) -> Binary:
    """A binary message with a picture in it: `[event][format][data]`."""
    return Binary(result.prompt_id, event.to_bytes(4, "big") + format_.to_bytes(4, "big") + data)


def _cached(result: Result) -> Told:
    images = [
        {"source": "http", "id": item.id, "content-type": item.content_type, "type": "output"}
        for item in result.items
    ]
    return Told(ui={"images": images})


def _sent(result: Result) -> Told:
    number = 2 if result.inputs.get("format", "PNG") == "PNG" else 1
    frames = tuple(frame(result, item.data, number) for item in result.items)
    images = [
        {"source": "websocket", "content-type": item.content_type, "type": "output"}
        for item in result.items
    ]
    return Told(frames, {"images": images})


def _krita_output(result: Result) -> Told:
    sent = _sent(replace(result, inputs={}))
    inputs = result.inputs
    about = {
        "name": inputs.get("name"),
        "offset_x": inputs.get("x"),
        "offset_y": inputs.get("y"),
        "batch_mode": inputs.get("batch_mode"),
        "resize_canvas": inputs.get("resize_canvas"),
    }
    return Told(sent.messages, {**(sent.ui or {}), "info": [about]})


def _krita_text(result: Result) -> Told:
    type_ = _TEXT_TYPES.get(str(result.inputs.get("type")), "text/plain")
    name = result.inputs.get("name")
    texts = [{"name": name, "text": text, "content-type": type_} for text in result.texts]
    return Told(ui={"text": texts})


def _over_websocket(result: Result) -> Told:
    messages: list[Message] = []
    for number, item in enumerate(result.items):
        step = {"value": number, "max": len(result.items)}
        ids = {"prompt_id": result.prompt_id, "node": result.node_id}
        messages += (
            Event("progress", {**step, **ids}),
            Preview(
                prompt_id=result.prompt_id,
                node_id=result.node_id,
                display_node_id=result.node_id,
                parent_node_id=None,
                real_node_id=result.node_id,
                image=item.data,
                image_type="image/png",
                result=True,
            ),
        )
    return Told(tuple(messages), again=True)


# --- what computes a little ----------------------------------------------------------------


def _apply_mask(node: Node) -> None:
    """One mask for each picture, or the one mask for all, as alpha that is not inverted."""
    image = node.inputs.get("image")
    of_image, of_mask = node.size(image), node.size(node.inputs.get("mask"))
    if of_image is not None and of_mask is not None and of_image != of_mask:
        shown = (f"torch.Size([{height}, {width}])" for width, height in (of_image, of_mask))
        raise HelperFailedError(
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
    """A text without its directives `lang:en`, as the pack gives it without a translator.

    Raises `HelperFailedError` for another language.
    """
    parts = _DIRECTIVE.split(text)
    for language in parts[1::2]:
        if language != "en":
            raise HelperFailedError(
                "ValueError",
                f"Invalid language directive lang:{language} - {language} is not a known language "
                "code. Available languages: NOT INSTALLED, en",
            )
    return " ".join(part.strip() for part in parts[::2] if part.strip())


def _loads(name: str, own: str, title: str, source: FileSource, mask: Mask) -> Helper:
    shown = _info(name, {own: _text()}, outputs=[("IMAGE", "image"), ("MASK", "mask")], title=title)
    reads = Reads(own, source, mask)
    return Helper(shown, _load_image(own), {"LoadImage", "LoadImageMask"}, reads)


def _shows(name: str, title: str, required: Mapping[str, Any], tells: Tells, **more: Any) -> Helper:
    inputs = {"images": ["IMAGE", {}], **required}
    shown = _info(name, inputs, hidden=_HIDDEN, title=title, **more)
    return Helper(shown, preview, {"PreviewImage"}, tells=tells)


_FORMATS = {"format": _combo("PNG", ["PNG", "JPEG"])}

HELPERS = (
    _loads("ETN_LoadImageCache", "id", "Load Image from Cache", "cache", Mask.ALPHA_OR_RED),
    _loads("ETN_LoadImageBase64", "image", "Load Image (Base64)", "base64", Mask.ALPHA_OR_NONE),
    loads(
        _info(
            "ETN_LoadMaskBase64",
            {"mask": _text()},
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
        Tells(_cached, _format, carries=False),
    ),
    _shows("ETN_SendImageWebSocket", "Send Image (WebSocket)", _FORMATS, Tells(_sent, _format)),
    Helper(
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
    ),
    Helper(
        _info(
            "ETN_Translate",
            {"text": _text(multiline=True)},
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
            "name": _text(""),
            "batch_mode": _combo(
                "default", ["default", "images", "animation", "layers"], display_name="batch mode"
            ),
            "resize_canvas": ["BOOLEAN", {"display_name": "resize canvas", "default": False}],
        },
        Tells(_krita_output, _png),
        category="krita",
    ),
    core(
        _info(
            "ETN_KritaSendText",
            {
                "value": ["*", {}],
                "name": _text("Output"),
                "type": _combo("text", ["text", "markdown", "html"]),
            },
            hidden=_HIDDEN,
            category="krita",
            title="Send Text",
        ),
        "PreviewAny",
        {"source": "value"},
        tells=Tells(_krita_text),
    ),
    Helper(
        info(
            "SaveImageWebsocket",
            {"images": ["IMAGE"]},
            pack="websocket_image_save",
            category="api/image",
        ),
        preview,
        {"PreviewImage"},
        tells=Tells(_over_websocket, _png, again=True),
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

#: The cloud does not tell what is in its model files, so that this is guessed from their names.
#: Patterns in names and the base models that they tell, in the words of comfyui-tooling-nodes; the
#: first that fits counts.
_BASES: tuple[tuple[str, str], ...] = (
    (r"flux[._-]?2", "flux2"),
    (r"z[._-]?image", "z-image"),
    (r"qwen[._-]?image", "qwen-image"),
    (r"ernie[._-]?image", "ernie-image"),
    (r"chroma", "chroma"),
    (r"anima(?!te|l|t)", "anima"),
    (r"krea[._-]?2", "krea2"),
    (r"schnell", "flux-schnell"),
    (r"flux", "flux"),
    (r"sd3|stable[._-]?diffusion[._-]?3", "sd3"),
    (r"hidream", "hi-dream"),
    (r"lumina", "lumina2"),
    (r"omnigen", "omnigen2"),
    (r"wan[._-]?2", "wan21"),
    (r"hunyuan[._-]?video", "hunyuan-video"),
    (r"ltx", "ltxv"),
    (r"cosmos", "cosmos"),
    (r"mochi", "mochi"),
    (r"aura[._-]?flow", "aura-flow"),
    (r"cascade", "cascade-c"),
    (r"svd|stable[._-]?video", "svd"),
    (r"refiner", "sdxl-refiner"),
    (r"xl|pony|illustrious|noob", "sdxl"),
    (r"sd[._-]?2|v2[._-]1|768-v", "sd20"),
    (
        r"sd[._-]?1|v1[._-]5|1[._]5|dreamshaper|realistic|serenity|flat2d|photon|deliberate"
        r"|juggernaut_reborn|epicrealism",
        "sd15",
    ),
)
_INPAINT = re.compile(r"inpaint|[._-]fill")
_V_PREDICTION = re.compile(r"v[._-]?pred")
_KLEIN = re.compile(r"klein[._-]?(?:base[._-]?)?(4b|9b)")

#: Base models of which there are files for inpainting.
_WITH_INPAINT = frozenset({"sd15", "sdxl", "flux"})


def guessed(name: str) -> dict[str, Any]:
    """A model as `GET /api/etn/model_info` describes it: `base_model`, `is_inpaint`, `type`."""
    lower = name.lower()
    base = next((base for pattern, base in _BASES if re.search(pattern, lower)), None)
    if base is None:
        return {"base_model": "unknown"}
    inpaints = base in _WITH_INPAINT and _INPAINT.search(lower) is not None
    found: dict[str, Any] = {"base_model": base, "is_inpaint": inpaints}
    if base == "sdxl":
        found["type"] = "v-prediction" if _V_PREDICTION.search(lower) else "eps"
    if base == "flux2":
        klein = _KLEIN.search(lower)
        found["type"] = f"klein-{klein[1]}" if klein else "dev"
    return found
