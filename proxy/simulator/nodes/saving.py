"""Output nodes for pictures: saved, previewed, or sent over the websocket."""

from __future__ import annotations

import asyncio
import posixpath
import random
import string as letters
from datetime import datetime
from typing import Any

from proxy.simulator.nodes.encoding import animation, png, workflow
from proxy.simulator.nodes.node_class import Context, InputSpec, NodeClass, Output
from proxy.simulator.nodes.specs import boolean, combo, integer, link, number, string
from proxy.simulator.nodes.values import Images

HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


def prefix_of(filename_prefix: str, size: tuple[int, int] = (0, 0)) -> str:
    """Return a `filename_prefix` with `%width%`, `%year%` and their like filled in.

    Raises `Exception`, as ComfyUI does, where it leads out of the output folder.
    """
    # What %hour% means is the machine's own time, in ComfyUI too.
    now = datetime.now()  # noqa: DTZ005
    values = {
        "width": str(size[0]),
        "height": str(size[1]),
        "year": str(now.year),
        **{
            name: f"{getattr(now, name):02}"
            for name in ("month", "day", "hour", "minute", "second")
        },
    }
    prefix = filename_prefix
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    folder = posixpath.normpath(posixpath.join("/output", posixpath.dirname(prefix)))
    if folder != "/output" and not folder.startswith("/output/"):
        raise Exception(
            "**** ERROR: Saving image outside the output folder is not allowed.\n"
            f" full_output_folder: {folder}\n         output_dir: /output\n         commonpath: /"
        )
    return prefix


async def _save(inputs: dict[str, Any], context: Context) -> Output:
    images: Images = inputs["images"]
    prefix = prefix_of(inputs["filename_prefix"], images.pictures[0].size)
    return await _pngs(inputs, context, prefix, "output", 4)


async def _preview(inputs: dict[str, Any], context: Context) -> Output:
    suffix = "".join(random.choices(letters.ascii_lowercase, k=5))  # noqa: S311 - only a name
    return await _pngs(inputs, context, f"ComfyUI_temp_{suffix}", "temp", 1)


async def _pngs(
    inputs: dict[str, Any], context: Context, prefix: str, kind: str, compress_level: int
) -> Output:
    metadata = workflow(inputs["prompt"], inputs["extra_pnginfo"])
    items = []
    for i, picture in enumerate(inputs["images"].pictures):
        data = await asyncio.to_thread(png, picture, metadata, compress_level)
        name = prefix.replace("%batch_num%", str(i))
        items.append(context.save(data, extension=".png", prefix=name, type=kind))
    return Output(ui={"images": items})


async def _over_websocket(inputs: dict[str, Any], context: Context) -> Output:
    pictures = inputs["images"].pictures
    for i, picture in enumerate(pictures):
        context.picture(await asyncio.to_thread(png, picture), "image/png")
        context.progress(i, len(pictures))
    return Output()


async def _animated_webp(inputs: dict[str, Any], context: Context) -> Output:
    method = {"default": 4, "fastest": 0, "slowest": 6}[inputs["method"]]
    return await _animated(
        inputs,
        context,
        "WEBP",
        lossless=inputs["lossless"],
        quality=inputs["quality"],
        method=method,
    )


async def _animated_png(inputs: dict[str, Any], context: Context) -> Output:
    return await _animated(inputs, context, "PNG", compress_level=inputs["compress_level"])


async def _animated(
    inputs: dict[str, Any], context: Context, format_: str, **options: Any
) -> Output:
    pictures = inputs["images"].pictures
    prefix = prefix_of(inputs["filename_prefix"], pictures[0].size)
    data = await asyncio.to_thread(animation, list(pictures), format_, inputs["fps"], **options)
    item = context.save(data, extension=f".{format_.lower()}", prefix=prefix)
    return Output(ui={"images": [item], "animated": [len(pictures) != 1]})


_IMAGES: dict[str, InputSpec] = {"images": link("IMAGE", "The pictures to save.")}
_PREFIX: dict[str, InputSpec] = {
    "filename_prefix": string("ComfyUI", tooltip="How the names of the files begin.")
}

NODES = [
    NodeClass(
        "SaveImage",
        _save,
        required={**_IMAGES, **_PREFIX},
        hidden=HIDDEN,
        output_node=True,
        display_name="Save Image",
        category="image",
        info={
            "search_aliases": ["save", "save image", "export image", "output image"],
            "essentials_category": "Basics",
        },
    ),
    NodeClass(
        "PreviewImage",
        _preview,
        required=_IMAGES,
        hidden=HIDDEN,
        output_node=True,
        display_name="Preview Image",
        category="image",
        info={"search_aliases": ["preview", "preview image", "show image", "view image"]},
    ),
    NodeClass(
        "SaveImageWebsocket",
        _over_websocket,
        required={"images": ["IMAGE"]},
        output_node=True,
        category="api/image",
        python_module="custom_nodes.websocket_image_save",
        volatile=True,
    ),
    NodeClass(
        "SaveAnimatedWEBP",
        _animated_webp,
        required={
            **_IMAGES,
            **_PREFIX,
            "fps": number(6.0, 0.01, 1000.0, 0.01),
            "lossless": boolean(True),
            "quality": integer(80, 0, 100),
            "method": combo(["default", "fastest", "slowest"]),
        },
        hidden=HIDDEN,
        output_node=True,
        category="image/animation",
        python_module="comfy_extras.nodes_images",
    ),
    NodeClass(
        "SaveAnimatedPNG",
        _animated_png,
        required={
            **_IMAGES,
            **_PREFIX,
            "fps": number(6.0, 0.01, 1000.0, 0.01),
            "compress_level": integer(4, 0, 9, advanced=True),
        },
        hidden=HIDDEN,
        output_node=True,
        category="image/animation",
        python_module="comfy_extras.nodes_images",
    ),
]
