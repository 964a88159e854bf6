"""Nodes that make and change masks."""

from __future__ import annotations

from PIL import Image, ImageChops, ImageFilter

from proxy.simulator.nodes.encoding import alpha
from proxy.simulator.nodes.specs import (
    NEW_STYLE,
    boolean,
    integer,
    link,
    maker,
    new_combo,
    number,
    side,
)
from proxy.simulator.nodes.values import Images, Masks, check_size

CHANNELS = ["red", "green", "blue", "alpha"]


def _solid(value: float, width: int, height: int) -> tuple[Masks]:
    check_size(width, height)
    return (Masks((Image.new("L", (width, height), int(255 * value)),)),)


def _invert(mask: Masks) -> tuple[Masks]:
    return (Masks(tuple(ImageChops.invert(picture) for picture in mask.pictures)),)


def _to_image(mask: Masks) -> tuple[Images]:
    return (Images(tuple(picture.convert("RGB") for picture in mask.pictures)),)


def _from_image(image: Images, channel: str) -> tuple[Masks]:
    if channel == "alpha":
        opacities = (
            alpha(picture) or Image.new("L", picture.size, 255) for picture in image.pictures
        )
        return (Masks(tuple(opacities)),)
    band = CHANNELS.index(channel)
    return (Masks(tuple(picture.getchannel(band) for picture in image.pictures)),)


def _grow(mask: Masks, expand: int, tapered_corners: bool) -> tuple[Masks]:
    grown = mask.pictures
    for _ in range(min(abs(expand), 64)):
        way = ImageFilter.MaxFilter(3) if expand > 0 else ImageFilter.MinFilter(3)
        grown = tuple(picture.filter(way) for picture in grown)
    return (Masks(grown),)


def _crop(mask: Masks, x: int, y: int, width: int, height: int) -> tuple[Masks]:
    box = (x, y, x + width, y + height)
    return (Masks(tuple(picture.crop(box) for picture in mask.pictures)),)


def _composite(destination: Masks, source: Masks, x: int, y: int, operation: str) -> tuple[Masks]:
    combine = _OPERATIONS[operation]
    combined = []
    for i, below in enumerate(destination.pictures):
        above = source.pictures[i % len(source.pictures)]
        canvas = below.copy()
        box = (x, y, min(x + above.width, below.width), min(y + above.height, below.height))
        part = above.crop((0, 0, box[2] - x, box[3] - y))
        canvas.paste(combine(below.crop(box), part), box)
        combined.append(canvas)
    return (Masks(tuple(combined)),)


_OPERATIONS = {
    "multiply": ImageChops.multiply,
    "add": ImageChops.add,
    "subtract": ImageChops.subtract,
    "and": ImageChops.darker,
    "or": ImageChops.lighter,
    "xor": ImageChops.difference,
}


def _join(image: Images, alpha: Masks) -> tuple[Images]:
    joined = []
    for picture, mask in zip(image.pictures, alpha.pictures, strict=False):
        opacity = ImageChops.invert(mask.resize(picture.size))
        whole = picture.convert("RGB")
        whole.putalpha(opacity)
        joined.append(whole)
    return (Images(tuple(joined)),)


def _split(image: Images) -> tuple[Images, Masks]:
    opacities = (alpha(picture) or Image.new("L", picture.size, 255) for picture in image.pictures)
    return (
        Images(tuple(picture.convert("RGB") for picture in image.pictures)),
        Masks(tuple(ImageChops.invert(opacity) for opacity in opacities)),
    )


def _threshold(mask: Masks, value: float) -> tuple[Masks]:
    table = [255 if level / 255 > value else 0 for level in range(256)]
    return (Masks(tuple(picture.point(table) for picture in mask.pictures)),)


_node = maker(
    category="mask", outputs=("MASK",), python_module="comfy_extras.nodes_mask", info=NEW_STYLE
)

NODES = [
    _node(
        "SolidMask",
        _solid,
        {
            "value": number(1.0, 0.0, 1.0, 0.01),
            "width": side(low=1, step=1),
            "height": side(low=1, step=1),
        },
    ),
    _node(
        "InvertMask",
        _invert,
        {"mask": link("MASK")},
    ),
    _node(
        "MaskToImage",
        _to_image,
        {"mask": link("MASK")},
        outputs=("IMAGE",),
        display_name="Convert Mask to Image",
    ),
    _node(
        "ImageToMask",
        _from_image,
        {"image": link("IMAGE"), "channel": new_combo(CHANNELS)},
        display_name="Convert Image to Mask",
    ),
    _node(
        "CropMask",
        _crop,
        {
            "mask": link("MASK"),
            "x": integer(0, 0, 16384, step=1),
            "y": integer(0, 0, 16384, step=1),
            "width": side(low=1, step=1),
            "height": side(low=1, step=1),
        },
    ),
    _node(
        "MaskComposite",
        _composite,
        {
            "destination": link("MASK"),
            "source": link("MASK"),
            "x": integer(0, 0, 16384, step=1),
            "y": integer(0, 0, 16384, step=1),
            "operation": new_combo(list(_OPERATIONS)),
        },
    ),
    _node(
        "JoinImageWithAlpha",
        _join,
        {"image": link("IMAGE"), "alpha": link("MASK")},
        outputs=("IMAGE",),
        display_name="Join Image with Alpha",
        category="mask/compositing",
        python_module="comfy_extras.nodes_compositing",
    ),
    _node(
        "SplitImageWithAlpha",
        _split,
        {"image": link("IMAGE")},
        outputs=("IMAGE", "MASK"),
        display_name="Split Image with Alpha",
        category="mask/compositing",
        python_module="comfy_extras.nodes_compositing",
    ),
    _node(
        "GrowMask",
        _grow,
        {
            "mask": link("MASK"),
            "expand": integer(0, -16384, 16384, step=1),
            "tapered_corners": boolean(True),
        },
    ),
    _node(
        "ThresholdMask",
        _threshold,
        {"mask": link("MASK"), "value": number(0.5, 0.0, 1.0, 0.01)},
    ),
]
