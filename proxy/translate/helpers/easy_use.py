"""ComfyUI-Easy-Use's node that takes a picture as base64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.translate.events import Told
from proxy.translate.helpers.helper import FileSource, Helper, Mask, Node, Reads, Tells, info

_SHOWN = ["Hide", "Preview", "Save", "Hide/Save"]


def _load(node: Node) -> None:
    """The loaded picture continues; the node itself shows it, as `image_output` asks for."""
    picture = node.picture
    image = node.add("image", "LoadImage", {"image": picture.name}, silent=False)
    node.give(0, image)
    if picture.mask is not None:
        load = {"image": picture.mask, "channel": "red"}
        node.give(1, node.add("mask", "LoadImageMask", load, silent=False))
    else:
        ones = {"value": 1.0, "width": picture.width, "height": picture.height}
        node.give(1, node.add("mask", "SolidMask", ones, silent=False))
    names = {"images": "base64_data", "filename_prefix": "save_prefix"}
    if node.value("image_output") in ("Save", "Hide/Save"):
        prefix = node.value("save_prefix", "ComfyUI")
        node.become("SaveImage", {"images": image, "filename_prefix": prefix}, names)
    else:
        node.become("PreviewImage", {"images": image}, names)


def _shows_nothing(inputs: Mapping[str, Any]) -> bool:
    return inputs.get("image_output") in ("Hide", "Hide/Save")


HELPERS = (
    Helper(
        "easy loadImageBase64",
        info(
            "easy loadImageBase64",
            {
                "base64_data": ["STRING", {"default": ""}],
                "image_output": [_SHOWN, {"default": "Preview"}],
                "save_prefix": ["STRING", {"default": "ComfyUI"}],
            },
            optional={},
            hidden={"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
            pack="ComfyUI-Easy-Use",
            category="EasyUse/Image/LoadImage",
            outputs=[("IMAGE", "IMAGE"), ("MASK", "MASK")],
            title="Load Image (Base64)",
            output_node=True,
        ),
        _load,
        frozenset({"LoadImage", "LoadImageMask", "SolidMask", "PreviewImage", "SaveImage"}),
        reads=Reads("base64_data", FileSource.BASE64, Mask.ALPHA_OR_ONES),
        tells=Tells(lambda _: Told(), when=_shows_nothing),
        exact="Picture, mask (alpha, else ones) and the pictures that are shown.",
        differs="16-bit files are brought to 8 bits. The text must be known before the run.",
    ),
)
