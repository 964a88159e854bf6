"""Pictures from an address, which the proxy fetches from allowed hosts alone."""

from __future__ import annotations

from proxy.packs.nodes import Reads, info, loads
from proxy.packs.pack import Pack

_NODES = (
    loads(
        info(
            "LoadImageFromUrl",
            {
                "image": [
                    "STRING",
                    {
                        "default": "",
                        "placeholder": "Input image paths or URLS one per line. Eg:\n"
                        "https://example.com/image.png\nfile:///path/to/local/image.jpg\n"
                        "data:image/png;base64,...",
                        "multiline": True,
                        "dynamicPrompts": False,
                    },
                ]
            },
            optional={
                "keep_alpha_channel": [
                    "BOOLEAN",
                    {"default": False, "label_on": "enabled", "label_off": "disabled"},
                ]
            },
            pack="comfyui-art-venture",
            category="ArtVenture/Image",
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
            {"image_url": ["STRING", {"default": "https://placehold.co/600x400/EEE/31343C"}]},
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
