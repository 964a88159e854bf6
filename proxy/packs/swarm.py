"""SwarmUI (SwarmComfyCommon): nodes that carry pictures, sound and videos."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.packs.nodes import (
    Node,
    PackNode,
    Reads,
    Result,
    ResultMessages,
    core,
    frame,
    info,
    loads,
    preview,
    refusal,
    same,
)
from proxy.packs.pack import Pack
from proxy.translate.events import Binary, Event, Message, NodeMessages

#: The progress that announces a picture, an animation or a text to SwarmUI, as value and maximum.
_PICTURE, _ANIMATION, _TEXT = 12345, 12346, 12347


def _announced(number: int, frames: list[Binary]) -> NodeMessages:
    messages: list[Message] = []
    for picture in frames:
        messages += (Event("progress", {"value": number, "max": number}), picture)
    return NodeMessages(tuple(messages), again=True)


def _encoding(inputs: Mapping[str, Any]) -> str:
    return "BMP" if inputs.get("bit_depth") == "raw" else "PNG"


def _pictures(result: Result) -> NodeMessages:
    raw = result.inputs.get("bit_depth") == "raw"
    format_, event = (1, 10) if raw else (2, 1)
    frames = [frame(result, item.data, format_, event) for item in result.items]
    return _announced(_PICTURE, frames)


def _animations(result: Result) -> NodeMessages:
    return _announced(_ANIMATION, [frame(result, item.data, 3) for item in result.items])


def _metadata(result: Result) -> NodeMessages:
    text = f"{result.inputs.get('key')}:{result.texts[0] if result.texts else ''}"
    return _announced(_TEXT, [frame(result, text.encode(), 0, 3)])


def _save(node: Node) -> None:
    if node.value("bit_depth", "8bit") not in ("8bit", "raw"):
        reason = "the files of Comfy Cloud have 8 bits; use 8bit or raw"
        raise refusal(node.id, node.graph, "bit_depth", reason)
    preview(node)


def _swarm(
    name: str, required: Mapping[str, Any], folder: str = "images", **more: Any
) -> dict[str, Any]:
    return info(name, required, pack="SwarmComfyCommon", category=f"SwarmUI/{folder}", **more)


def _base64(kind: str, class_type: str, own: str, *outputs: str) -> PackNode:
    name, spec = f"{kind}_base64", ["STRING", {"multiline": True}]
    about = (
        f"Loads {'a' if kind == 'video' else 'an'} {kind} from a base64 string. Works like a "
        f"regular {class_type} node, but with input format designed to be easier to use through "
        "automated calls, including SwarmUI with custom workflows."
    )
    name_ = f"SwarmLoad{kind.title()}B64"
    shown = _swarm(name_, {name: spec}, outputs=outputs, description=about)
    return loads(shown, class_type, own, Reads(name, "base64", kind=kind))


_SENT = (
    "Acts like a special version of '{}' that doesn't actual save to disk, instead it sends "
    "directly over websocket. This is intended so that SwarmUI can save the image itself rather "
    "than having Comfy's Core save it."
)

_NODES = (
    _base64("image", "LoadImage", "image", "IMAGE", "MASK"),
    _base64("video", "LoadVideo", "file", "VIDEO"),
    _base64("audio", "LoadAudio", "audio", "AUDIO"),
    PackNode(
        _swarm(
            "SwarmSaveImageWS",
            {"images": ["IMAGE"]},
            optional={"bit_depth": [["8bit", "raw"], {"default": "8bit"}]},
            description=_SENT.format("SaveImage"),
        ),
        _save,
        {"PreviewImage"},
        messages=ResultMessages(_pictures, _encoding, again=True),
    ),
    core(
        _swarm(
            "SwarmSaveAnimatedWebpWS",
            {
                "images": ["IMAGE"],
                "fps": [
                    "FLOAT",
                    {
                        "default": 6.0,
                        "min": 0.01,
                        "max": 1000.0,
                        "step": 0.01,
                        "tooltip": "Frames per second, must match the actual generated speed or "
                        "else you will get slow/fast motion.",
                    },
                ],
                "lossless": [
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "If true, the image will be saved losslessly, otherwise it will "
                        "be saved with the quality specified. Lossless is best quality, but takes "
                        "more file space.",
                    },
                ],
                "quality": [
                    "INT",
                    {
                        "default": 80,
                        "min": 0,
                        "max": 100,
                        "tooltip": "Quality of the image as a percentage, only used if lossless is "
                        "false. Smaller values save more space but look worse. 80 is a fine "
                        "general value.",
                    },
                ],
                "method": [["default", "fastest", "slowest"]],
            },
            folder="video",
            description=_SENT.format("SaveAnimatedWEBP"),
        ),
        "SaveAnimatedWEBP",
        same("images", "fps", "lossless", "quality", "method"),
        messages=ResultMessages(_animations, again=True),
        filename_prefix="swarm",
    ),
    core(
        _swarm(
            "SwarmAddSaveMetadataWS",
            {
                "key": [
                    "STRING",
                    {
                        "tooltip": "The key to add to the metadata tracker. Must be simple A-Z "
                        "plain text or underscores.",
                    },
                ],
                "value": ["STRING", {"tooltip": "The value to add to the metadata tracker."}],
            },
            description="Adds a metadata key/value pair to SwarmUI's metadata tracker for this "
            "generation, which will be appended to any images saved after this node triggers. "
            "Note that keys overwrite, not add. Any key can have only one value.",
        ),
        "PreviewAny",
        {"source": "value"},
        messages=ResultMessages(_metadata, again=True),
    ),
)

PACK = Pack("SwarmUI", _NODES)
