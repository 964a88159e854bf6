"""Nodes that load a picture from an address: the proxy fetches it, from allowed hosts alone."""

from __future__ import annotations

from typing import Any

from proxy.translate.helpers.helper import FileSource, Helper, Node, Reads, info

_DIFFERS = (
    "Hosts must be in the setting `url_hosts`, and private addresses are never fetched. The "
    "address must be known before the run."
)


def _core(name: str) -> Any:
    def become(node: Node) -> None:
        node.become("LoadImage", {"image": node.picture.name}, {"image": name})

    return become


HELPERS = (
    Helper(
        "LoadImageFromUrl",
        info(
            "LoadImageFromUrl",
            {"image": ["STRING", {"default": "", "multiline": True}]},
            optional={"keep_alpha_channel": ["BOOLEAN", {"default": False}]},
            pack="comfyui-art-venture",
            category="Art Venture/Image",
            outputs=[("IMAGE", "images"), ("MASK", "masks")],
            title="Load Image From URL",
        ),
        _core("image"),
        frozenset({"LoadImage"}),
        reads=Reads("image", FileSource.URL),
        exact="Picture and mask as core's `LoadImage` gives them.",
        differs=f"{_DIFFERS} One address; `keep_alpha_channel` is left out.",
    ),
    Helper(
        "LoadImageFromHttpURL",
        info(
            "LoadImageFromHttpURL",
            {"image_url": ["STRING", {"default": ""}]},
            pack="ComfyUI_LoadImageFromHttpURL",
            category="jerrywap/loaders",
            outputs=[("IMAGE", "IMAGE")],
            title="Load Image from HTTP URL",
        ),
        _core("image_url"),
        frozenset({"LoadImage"}),
        reads=Reads("image_url", FileSource.URL),
        exact="The picture.",
        differs=f"{_DIFFERS} An address that cannot be fetched is an error, not a black picture.",
    ),
)
