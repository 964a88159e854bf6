"""Nodes that read files: uploads, and outputs of earlier jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image, ImageChops

from proxy.simulator.nodes import encoding, mp4, sound
from proxy.simulator.nodes.node_class import Check, Context, Files, NodeClass, Output
from proxy.simulator.nodes.painting import paint
from proxy.simulator.nodes.specs import NEW_STYLE, combo, new_combo
from proxy.simulator.nodes.values import Images, Masks, Video


def known_file(name: str, kind: str) -> Check:
    """Return the check of an input `name` that names a file: does the cloud have it?"""

    def check(inputs: dict[str, Any], files: Files) -> bool | str:
        value = inputs[name]
        if isinstance(value, str) and files(value):
            return True
        return f"Invalid {kind} file: {value}"

    return check


async def _image(inputs: dict[str, Any], context: Context) -> Output:
    frames = encoding.frames(context.load(str(inputs["image"])))
    size = frames[0].size
    frames = [frame for frame in frames if frame.size == size]
    return Output(
        (
            Images(tuple(encoding.rgb(frame) for frame in frames)),
            Masks(tuple(_transparency(frame) for frame in frames)),
        )
    )


def _transparency(frame: Image.Image) -> Image.Image:
    opacity = encoding.alpha(frame)
    # ComfyUI gives an empty mask of 64x64 where a picture has no alpha.
    return Image.new("L", (64, 64)) if opacity is None else ImageChops.invert(opacity)


async def _mask(inputs: dict[str, Any], context: Context) -> Output:
    frame = encoding.frames(context.load(str(inputs["image"])))[0]
    if inputs["channel"] == "alpha":
        return Output((Masks((_transparency(frame),)),))
    band = ("red", "green", "blue").index(inputs["channel"])
    return Output((Masks((encoding.rgb(frame).getchannel(band),)),))


async def _audio(inputs: dict[str, Any], context: Context) -> Output:
    return Output((sound.read(context.load(str(inputs["audio"]))),))


async def _video(inputs: dict[str, Any], context: Context) -> Output:
    data = context.load(str(inputs["file"]))
    return Output((Video(_moving_pictures(data), 24.0),))


def _moving_pictures(data: bytes) -> tuple[Image.Image, ...]:
    try:
        return tuple(encoding.rgb(frame) for frame in encoding.frames(data))
    except OSError:
        pass
    frames = [encoding.frames(picture)[0] for picture in mp4.pictures_of(data)]
    if frames:
        return tuple(frames)
    # The simulator has no decoders: another codec is seen as a short clip of its own.
    subject = f"{len(data)} bytes"
    return tuple(paint(subject, step, (256, 144)) for step in range(4))


def _upload(kind: str, **options: Any) -> dict[str, Any]:
    return {f"{kind}_upload": True, **options}


_OUTPUTS: dict[str, Any] = {
    "image_upload": True,
    "image_folder": "output",
    "remote": {
        "route": "/internal/files/output",
        "refresh_button": True,
        "control_after_refresh": "first",
    },
}


def _loads_images(name: str, run: Callable[..., Any], **fields: Any) -> NodeClass:
    return NodeClass(
        name, run, check=known_file("image", "image"), checks=("image",), category="image", **fields
    )


NODES = [
    _loads_images(
        "LoadImage",
        _image,
        required={"image": combo([], **_upload("image"))},
        outputs=("IMAGE", "MASK"),
        display_name="Load Image",
        info={"search_aliases": ["load image", "open image", "import image", "upload image"]},
    ),
    _loads_images(
        "LoadImageMask",
        _mask,
        required={
            "image": combo([], **_upload("image")),
            "channel": combo(["alpha", "red", "green", "blue"]),
        },
        outputs=("MASK",),
        display_name="Load Image (as Mask)",
    ),
    _loads_images(
        "LoadImageOutput",
        _image,
        required={"image": ["COMBO", _OUTPUTS]},
        outputs=("IMAGE", "MASK"),
        display_name="Load Image (from Outputs)",
        description="Loads a picture that an earlier job has made.",
        info={"experimental": True},
    ),
    NodeClass(
        "LoadAudio",
        _audio,
        required={"audio": new_combo([], **_upload("audio"))},
        outputs=("AUDIO",),
        check=known_file("audio", "audio"),
        checks=("audio",),
        display_name="Load Audio",
        category="audio",
        python_module="comfy_extras.nodes_audio",
        info=NEW_STYLE,
    ),
    NodeClass(
        "LoadVideo",
        _video,
        required={"file": new_combo([], **_upload("video"))},
        outputs=("VIDEO",),
        check=known_file("file", "video"),
        checks=("file",),
        display_name="Load Video",
        category="image/video",
        python_module="comfy_extras.nodes_video",
        info=NEW_STYLE,
    ),
]
