"""ComfyUI-Easy-Use: a picture as base64."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.packs.nodes import SAVED_WITH, Mask, Node, PackNode, Reads, ResultMessages, info
from proxy.packs.pack import Pack
from proxy.translate.events import NodeMessages


def _load_easy(node: Node) -> None:
    """Load the picture beside the node, which shows it as `image_output` asks for."""
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


_NODES = (
    PackNode(
        info(
            "easy loadImageBase64",
            {
                "base64_data": ["STRING", {"default": ""}],
                "image_output": [["Hide", "Preview", "Save", "Hide/Save"], {"default": "Preview"}],
                "save_prefix": ["STRING", {"default": "ComfyUI"}],
            },
            hidden=SAVED_WITH,
            pack="ComfyUI-Easy-Use",
            category="EasyUse/Image/LoadImage",
            outputs=["IMAGE", "MASK"],
            title="Load Image (Base64)",
            output_node=True,
        ),
        _load_easy,
        {"LoadImage", "LoadImageMask", "SolidMask", "PreviewImage", "SaveImage"},
        reads=Reads("base64_data", "base64", Mask.ALPHA_OR_ONES),
        messages=ResultMessages(lambda _: NodeMessages(), when=_shows_nothing),
    ),
)

PACK = Pack("ComfyUI-Easy-Use", _NODES)
