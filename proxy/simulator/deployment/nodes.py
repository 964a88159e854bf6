"""The nodes of three made-up packs, which Comfy Cloud does not have."""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageOps

from proxy.simulator.nodes import Context, NodeClass, Output
from proxy.simulator.nodes.encoding import frames, rgb
from proxy.simulator.nodes.loading import known_file
from proxy.simulator.nodes.specs import combo, integer, link, maker
from proxy.simulator.nodes.values import Images

_COLORS = {"gold": (212, 175, 55), "ink": (24, 24, 32), "paper": (244, 240, 230)}


def _framed(image: Images, width: int, color: str) -> tuple[Images]:
    made = (ImageOps.expand(picture, width, _COLORS[color]) for picture in image.pictures)
    return (Images(tuple(made)),)


def _reduced(image: Images, colors: int) -> tuple[Images]:
    made = (picture.quantize(colors).convert("RGB") for picture in image.pictures)
    return (Images(tuple(made)),)


async def _stamped(inputs: dict[str, Any], context: Context) -> Output:
    """Put a picture into the corner of others, one after the other."""
    stamp = rgb(frames(context.load(str(inputs["stamp"])))[0])
    image, made = inputs["image"], []
    for number, picture in enumerate(image.pictures, 1):
        side = max(1, min(picture.size) // 4)
        below = picture.convert("RGB")
        below.paste(stamp.resize((side, side)), (below.width - side, below.height - side))
        made.append(below)
        context.progress(number, len(image.pictures))
        await context.step()
    return Output((Images(tuple(made)),))


async def _contact_sheet(inputs: dict[str, Any], context: Context) -> Output:
    """Draw the pictures side by side; each column takes a step."""
    pictures = inputs["image"].pictures
    steps = int(inputs["steps"])
    sheet = Image.new("RGB", (sum(each.width for each in pictures), pictures[0].height))
    for step in range(1, steps + 1):
        context.progress(step, steps)
        await context.step()
    at = 0
    for picture in pictures:
        sheet.paste(picture, (at, 0))
        at += picture.width
    return Output((Images((sheet,)),))


async def _measured(inputs: dict[str, Any], _context: Context) -> Output:
    """Show the size, which is no file and no text."""
    first = inputs["image"].pictures[0]
    return Output(ui={"size": [first.width, first.height]})


_frame = maker(python_module="custom_nodes.ComfyUI-Frames", category="Frames")
_palette = maker(python_module="custom_nodes.ComfyUI-Palette", category="Palette")

NODES = [
    _frame(
        "AddFrame",
        _framed,
        {
            "image": link("IMAGE"),
            "width": integer(16, 1, 256),
            "color": combo([*_COLORS]),
        },
        display_name="Add Frame",
        outputs=("IMAGE",),
    ),
    NodeClass(
        "MeasureFrame",
        _measured,
        required={"image": link("IMAGE")},
        output_node=True,
        display_name="Measure Frame",
        category="Frames",
        python_module="custom_nodes.ComfyUI-Frames",
    ),
    _palette(
        "ReducePalette",
        _reduced,
        {"image": link("IMAGE"), "colors": integer(8, 2, 256)},
        display_name="Reduce Palette",
        outputs=("IMAGE",),
    ),
    NodeClass(
        "StampPicture",
        _stamped,
        required={"image": link("IMAGE"), "stamp": [[], {"image_upload": True}]},
        outputs=("IMAGE",),
        display_name="Stamp Picture",
        category="Stamps",
        python_module="custom_nodes.ComfyUI-Stamps",
        check=known_file("stamp", "image"),
        checks=("stamp",),
    ),
    NodeClass(
        "ContactSheet",
        _contact_sheet,
        required={"image": link("IMAGE"), "steps": integer(8, 1, 1000)},
        outputs=("IMAGE",),
        display_name="Contact Sheet",
        category="Stamps",
        python_module="custom_nodes.ComfyUI-Stamps",
    ),
]
