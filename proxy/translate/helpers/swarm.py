"""SwarmUI's nodes that carry pictures, sound and videos (SwarmComfyCommon)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.translate.events import Binary, Event, Message, Told
from proxy.translate.helpers.helper import (
    FileSource,
    Helper,
    HelperRefusedError,
    Node,
    Reads,
    Result,
    Tells,
    becomes,
    info,
)
from proxy.translate.helpers.tooling import frame

_PACK = "SwarmComfyCommon"

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
    frames = [
        frame(result, item.data, format_=1 if raw else 2, event=10 if raw else 1)
        for item in result.items
    ]
    return _announced(_PICTURE, frames)


def _animations(result: Result) -> Told:
    return _announced(_ANIMATION, [frame(result, item.data, format_=3) for item in result.items])


def _metadata(result: Result) -> Told:
    text = f"{result.inputs.get('key')}:{result.texts[0] if result.texts else ''}"
    return _announced(_TEXT, [frame(result, text.encode(), format_=0, event=3)])


def _save(node: Node) -> None:
    if node.value("bit_depth", "8bit") not in ("8bit", "raw"):
        reason = "the files of Comfy Cloud have 8 bits; use 8bit or raw"
        raise HelperRefusedError(node.id, "bit_depth", reason)
    node.become("PreviewImage", {"images": node.inputs.get("images")}, {"images": "images"})


def _load(class_type: str, name: str) -> Any:
    def become(node: Node) -> None:
        own = {"LoadImage": "image", "LoadVideo": "file", "LoadAudio": "audio"}[class_type]
        node.become(class_type, {own: node.picture.name}, {own: name})

    return become


_BASE64 = ["STRING", {"multiline": True}]


def _info(name: str, required: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    category = more.pop("category", "SwarmUI/images")
    return info(name, required, pack=_PACK, category=category, **more)


HELPERS = (
    Helper(
        "SwarmLoadImageB64",
        _info(
            "SwarmLoadImageB64",
            {"image_base64": _BASE64},
            outputs=[("IMAGE", "IMAGE"), ("MASK", "MASK")],
        ),
        _load("LoadImage", "image_base64"),
        frozenset({"LoadImage"}),
        reads=Reads("image_base64", FileSource.BASE64),
        exact="As core's `LoadImage`, which it is.",
        differs="The text must be known before the run.",
    ),
    Helper(
        "SwarmLoadVideoB64",
        _info("SwarmLoadVideoB64", {"video_base64": _BASE64}, outputs=[("VIDEO", "VIDEO")]),
        _load("LoadVideo", "video_base64"),
        frozenset({"LoadVideo"}),
        reads=Reads("video_base64", FileSource.BASE64, kind="video"),
        exact="As core's `LoadVideo`.",
        differs="The cloud may refuse videos as uploads.",
    ),
    Helper(
        "SwarmLoadAudioB64",
        _info("SwarmLoadAudioB64", {"audio_base64": _BASE64}, outputs=[("AUDIO", "AUDIO")]),
        _load("LoadAudio", "audio_base64"),
        frozenset({"LoadAudio"}),
        reads=Reads("audio_base64", FileSource.BASE64, kind="audio"),
        exact="As core's `LoadAudio`.",
        differs="The cloud may refuse sound as uploads.",
    ),
    Helper(
        "SwarmSaveImageWS",
        _info(
            "SwarmSaveImageWS",
            {"images": ["IMAGE"]},
            optional={"bit_depth": [["8bit", "raw"], {"default": "8bit"}]},
            output_node=True,
        ),
        _save,
        frozenset({"PreviewImage"}),
        tells=Tells(_pictures, _encoding, again=True),
        exact="Pixels and frames of `8bit` and `raw`, on each run.",
        differs="`16bit` is not offered: the cloud's files have 8 bits.",
    ),
    Helper(
        "SwarmSaveAnimatedWebpWS",
        _info(
            "SwarmSaveAnimatedWebpWS",
            {
                "images": ["IMAGE"],
                "fps": ["FLOAT", {"default": 6.0, "min": 0.01, "max": 1000.0, "step": 0.01}],
                "lossless": ["BOOLEAN", {"default": True}],
                "quality": ["INT", {"default": 80, "min": 0, "max": 100}],
                "method": [["default", "fastest", "slowest"]],
            },
            category="SwarmUI/video",
            output_node=True,
        ),
        becomes(
            "SaveAnimatedWEBP",
            {
                "images": "images",
                "fps": "fps",
                "lossless": "lossless",
                "quality": "quality",
                "method": "method",
            },
            filename_prefix="swarm",
        ),
        frozenset({"SaveAnimatedWEBP"}),
        tells=Tells(_animations, again=True),
        exact="The frame that announces it and the animation.",
        differs="The file is core's `SaveAnimatedWEBP`'s, with the graph that ran in it.",
    ),
    Helper(
        "SwarmAddSaveMetadataWS",
        _info(
            "SwarmAddSaveMetadataWS",
            {"key": ["STRING", {}], "value": ["STRING", {}]},
            output_node=True,
        ),
        becomes("PreviewAny", {"source": "value"}),
        frozenset({"PreviewAny"}),
        tells=Tells(_metadata, again=True),
        exact="The announced text `key:value`, on each run.",
        differs="The key must be known before the run.",
    ),
)
