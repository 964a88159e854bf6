"""Nodes that make and change pictures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from PIL import Image, ImageChops, ImageOps

from proxy.simulator.nodes.blank import blank, single_color
from proxy.simulator.nodes.models import MODEL_FILES
from proxy.simulator.nodes.node_class import Context, InputSpec, NodeClass, Output
from proxy.simulator.nodes.specs import (
    MAX_SIDE,
    NEW_STYLE,
    boolean,
    combo,
    integer,
    link,
    maker,
    new_combo,
    number,
    side,
)
from proxy.simulator.nodes.values import Images, Masks, Weights, check_size

RESAMPLING = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bislerp": Image.Resampling.BICUBIC,
}
METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
CROPS = ["disabled", "center"]

#: How long it takes at least to scale to a pixel: 84 ms for 4096x4096 of them.
_SECONDS_PER_PIXEL = 5e-9


def resized(
    pictures: tuple[Image.Image, ...], size: tuple[int, int], method: str, crop: str = "disabled"
) -> tuple[Image.Image, ...]:
    """Return pictures of a size; `crop` "center" keeps their proportions by cutting the rest."""
    check_size(*size, len(pictures))
    return tuple(_resized(picture, size, RESAMPLING[method], crop) for picture in pictures)


def _resized(
    picture: Image.Image, size: tuple[int, int], way: Image.Resampling, crop: str
) -> Image.Image:
    color = single_color(picture)
    if color is not None:
        return blank(picture.mode, size, color)
    return ImageOps.fit(picture, size, way) if crop == "center" else picture.resize(size, way)


def _empty(width: int, height: int, batch_size: int, color: int) -> tuple[Images]:
    check_size(width, height, batch_size)
    colour = (color >> 16 & 255, color >> 8 & 255, color & 255)
    return (Images((blank("RGB", (width, height), colour),) * batch_size),)


def _scale(image: Images, upscale_method: str, width: int, height: int, crop: str) -> tuple[Images]:
    if width == 0 and height == 0:
        return (image,)
    old_width, old_height = image.pictures[0].size
    size = (
        width or max(1, round(old_width * height / old_height)),
        height or max(1, round(old_height * width / old_width)),
    )
    return (Images(resized(image.pictures, size, upscale_method, crop)),)


def _scale_by(image: Images, upscale_method: str, scale_by: float) -> tuple[Images]:
    width, height = image.pictures[0].size
    size = (round(width * scale_by), round(height * scale_by))
    return (Images(resized(image.pictures, size, upscale_method)),)


def _scale_to_pixels(
    image: Images, upscale_method: str, megapixels: float, resolution_steps: int = 1
) -> tuple[Images]:
    width, height = image.pictures[0].size
    factor = (megapixels * 1024 * 1024 / (width * height)) ** 0.5
    step = max(1, resolution_steps)
    size = (
        max(step, round(width * factor / step) * step),
        max(step, round(height * factor / step) * step),
    )
    return (Images(resized(image.pictures, size, upscale_method)),)


def _invert(image: Images) -> tuple[Images]:
    return (Images(tuple(ImageChops.invert(picture) for picture in image.pictures)),)


_BLENDS = {
    "normal": lambda _below, above: above,
    "multiply": ImageChops.multiply,
    "screen": ImageChops.screen,
    "overlay": ImageChops.overlay,
    "soft_light": ImageChops.soft_light,
    "difference": ImageChops.difference,
}


def _blend(image1: Images, image2: Images, blend_factor: float, blend_mode: str) -> tuple[Images]:
    size = image1.pictures[0].size
    above = resized(image2.pictures, size, "bicubic", "center")
    share = min(1.0, max(0.0, blend_factor))
    blended = tuple(
        Image.blend(below, _BLENDS[blend_mode](below, above[i % len(above)]), share)
        for i, below in enumerate(image1.pictures)
    )
    return (Images(blended),)


def _batch(image1: Images, image2: Images) -> tuple[Images]:
    size = image1.pictures[0].size
    return (Images(image1.pictures + resized(image2.pictures, size, "bilinear", "center")),)


def _repeat(image: Images, amount: int) -> tuple[Images]:
    check_size(*image.pictures[0].size, amount * len(image.pictures))
    return (Images(image.pictures * amount),)


def _crop(image: Images, width: int, height: int, x: int, y: int) -> tuple[Images]:
    across, down = image.pictures[0].size
    left, top = min(x, across - 1), min(y, down - 1)
    box = (left, top, min(left + width, across), min(top + height, down))
    return (Images(tuple(picture.crop(box) for picture in image.pictures)),)


def _composite(
    destination: Images,
    source: Images,
    x: int,
    y: int,
    resize_source: bool,
    mask: Masks | None = None,
) -> tuple[Images]:
    size = destination.pictures[0].size
    above = resized(source.pictures, size, "bilinear") if resize_source else source.pictures
    result = []
    for i, below in enumerate(destination.pictures):
        top = above[i % len(above)]
        stencil = None
        if mask is not None:
            stencil = mask.pictures[i % len(mask.pictures)].resize(top.size)
        canvas = below.copy()
        canvas.paste(top, (x, y), stencil)
        result.append(canvas)
    return (Images(tuple(result)),)


def _pad(
    image: Images, left: int, top: int, right: int, bottom: int, feathering: int
) -> tuple[Images, Masks]:
    width, height = image.pictures[0].size
    size = (width + left + right, height + top + bottom)
    check_size(*size, len(image.pictures))
    mask = Image.new("L", size, 255)
    edge = min(feathering, width // 2, height // 2)
    mask.paste(0, (left + edge, top + edge, left + width - edge, top + height - edge))
    padded = []
    for picture in image.pictures:
        canvas = Image.new("RGB", size, (128, 128, 128))
        canvas.paste(picture, (left, top))
        padded.append(canvas)
    return Images(tuple(padded)), Masks((mask,))


async def _size(inputs: dict[str, Any], context: Context) -> Output:
    pictures = inputs["image"].pictures
    width, height = pictures[0].size
    context.text(f"width: {width}, height: {height}\n batch size: {len(pictures)}")
    return Output((width, height, len(pictures)))


def _upscale_model(model_name: str) -> tuple[Weights]:
    return (Weights("UPSCALE_MODEL", (model_name,)),)


async def _upscale(inputs: dict[str, Any], context: Context) -> Output:
    pictures = inputs["image"].pictures
    width, height = pictures[0].size
    enlarged: list[Image.Image] = []
    for done, picture in enumerate(pictures, 1):
        enlarged += await asyncio.to_thread(resized, (picture,), (width * 4, height * 4), "lanczos")
        await context.step()
        context.progress(done, len(pictures))
    return Output((Images(tuple(enlarged)),))


_LEVEL = number(1.0, 0.01, 8.0, 0.01)
_MARGIN = integer(0, 0, MAX_SIDE, step=8)

_node = maker(category="image", outputs=("IMAGE",))


def _scaler(
    name: str,
    function: Callable[..., tuple[Images]],
    required: dict[str, InputSpec],
    **fields: Any,
) -> NodeClass:
    """Return a class of nodes that scale, which takes its time even where nothing is computed:
    workflows that have to last for a while scale large pictures of a single color."""

    async def run(inputs: dict[str, Any], _context: Context) -> tuple[Images]:
        began = time.monotonic()
        (images,) = await asyncio.to_thread(function, **inputs)
        pixels = sum(picture.width * picture.height for picture in images.pictures)
        await asyncio.sleep(began + pixels * _SECONDS_PER_PIXEL - time.monotonic())
        return (images,)

    return replace(_node(name, function, required, **fields), run=run)


NODES = [
    _node(
        "EmptyImage",
        _empty,
        {
            "width": side(low=1, step=1),
            "height": side(low=1, step=1),
            "batch_size": integer(1, 1, 4096),
            "color": integer(0, 0, 0xFFFFFF, step=1, display="color"),
        },
    ),
    _scaler(
        "ImageScale",
        _scale,
        {
            "image": link("IMAGE"),
            "upscale_method": combo(METHODS),
            "width": side(low=0, step=1),
            "height": side(low=0, step=1),
            "crop": combo(CROPS),
        },
        display_name="Upscale Image",
        category="image/upscaling",
        info={"search_aliases": ["resize", "resize image", "scale image"]},
    ),
    _scaler(
        "ImageScaleBy",
        _scale_by,
        {
            "image": link("IMAGE"),
            "upscale_method": combo(METHODS),
            "scale_by": _LEVEL,
        },
        display_name="Upscale Image By",
        category="image/upscaling",
    ),
    _scaler(
        "ImageScaleToTotalPixels",
        _scale_to_pixels,
        {
            "image": link("IMAGE"),
            "upscale_method": combo(METHODS),
            "megapixels": number(1.0, 0.01, 16.0, 0.01),
        },
        optional={"resolution_steps": integer(1, 1, 256)},
        category="image/upscaling",
        python_module="comfy_extras.nodes_post_processing",
    ),
    _node(
        "ImageInvert",
        _invert,
        {"image": link("IMAGE")},
        display_name="Invert Image",
    ),
    _node(
        "ImageBlend",
        _blend,
        {
            "image1": link("IMAGE"),
            "image2": link("IMAGE"),
            "blend_factor": number(0.5, 0.0, 1.0, 0.01),
            "blend_mode": new_combo(list(_BLENDS)),
        },
        display_name="Image Blend",
        category="image/postprocessing",
        python_module="comfy_extras.nodes_post_processing",
        info=NEW_STYLE,
    ),
    _node(
        "ImageBatch",
        _batch,
        {"image1": link("IMAGE"), "image2": link("IMAGE")},
        display_name="Batch Images",
    ),
    _node(
        "RepeatImageBatch",
        _repeat,
        {"image": link("IMAGE"), "amount": integer(1, 1, 4096)},
        category="image/batch",
        python_module="comfy_extras.nodes_images",
        info=NEW_STYLE,
    ),
    _node(
        "ImageCrop",
        _crop,
        {
            "image": link("IMAGE"),
            "width": side(low=1, step=1),
            "height": side(low=1, step=1),
            "x": integer(0, 0, MAX_SIDE, step=1),
            "y": integer(0, 0, MAX_SIDE, step=1),
        },
        display_name="Image Crop",
        category="image/transform",
        python_module="comfy_extras.nodes_images",
        info=NEW_STYLE,
    ),
    _node(
        "ImageCompositeMasked",
        _composite,
        {
            "destination": link("IMAGE"),
            "source": link("IMAGE"),
            "x": integer(0, 0, MAX_SIDE, step=1),
            "y": integer(0, 0, MAX_SIDE, step=1),
            "resize_source": boolean(False),
        },
        optional={"mask": link("MASK")},
        python_module="comfy_extras.nodes_mask",
        info=NEW_STYLE,
    ),
    _node(
        "ImagePadForOutpaint",
        _pad,
        {
            "image": link("IMAGE"),
            "left": _MARGIN,
            "top": _MARGIN,
            "right": _MARGIN,
            "bottom": _MARGIN,
            "feathering": integer(40, 0, MAX_SIDE, step=1),
        },
        outputs=("IMAGE", "MASK"),
        display_name="Pad Image for Outpainting",
    ),
    NodeClass(
        "GetImageSize",
        _size,
        required={"image": link("IMAGE")},
        hidden={"unique_id": "UNIQUE_ID"},
        outputs=("INT", "INT", "INT"),
        output_names=("width", "height", "batch_size"),
        display_name="Get Image Size",
        category="image",
        python_module="comfy_extras.nodes_images",
        info=NEW_STYLE,
    ),
    _node(
        "UpscaleModelLoader",
        _upscale_model,
        {"model_name": new_combo(MODEL_FILES["upscale_models"])},
        outputs=("UPSCALE_MODEL",),
        display_name="Load Upscale Model",
        category="loaders",
        python_module="comfy_extras.nodes_upscale_model",
        info=NEW_STYLE,
    ),
    NodeClass(
        "ImageUpscaleWithModel",
        _upscale,
        required={"upscale_model": link("UPSCALE_MODEL"), "image": link("IMAGE")},
        outputs=("IMAGE",),
        display_name="Upscale Image (using Model)",
        category="image/upscaling",
        python_module="comfy_extras.nodes_upscale_model",
        info=NEW_STYLE,
    ),
]
