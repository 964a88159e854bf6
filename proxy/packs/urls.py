"""Pictures from an address, which the proxy fetches from allowed hosts alone."""

from __future__ import annotations

from proxy.packs.nodes import Reads, info, loads
from proxy.packs.pack import Pack

_NODES = (
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

PACK = Pack("pictures-from-addresses", _NODES)
