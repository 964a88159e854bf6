"""The packs of helper nodes in one table. Those of one or two classes are here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from proxy.translate.events import Told
from proxy.translate.helpers import blender, swarm, tooling
from proxy.translate.helpers.helper import (
    FileSource,
    Helper,
    Mask,
    Node,
    Reads,
    Result,
    Tells,
    becomes,
    info,
)

# --- ComfyUI-Easy-Use: a picture as base64 ---------------------------------------------------

_SHOWN = ["Hide", "Preview", "Save", "Hide/Save"]


def _load_easy(node: Node) -> None:
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


_EASY_USE = (
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
        _load_easy,
        frozenset({"LoadImage", "LoadImageMask", "SolidMask", "PreviewImage", "SaveImage"}),
        reads=Reads("base64_data", FileSource.BASE64, Mask.ALPHA_OR_ONES),
        tells=Tells(lambda _: Told(), when=_shows_nothing),
        exact="Picture, mask (alpha, else ones) and the pictures that are shown.",
        differs="16-bit files are brought to 8 bits. The text must be known before the run.",
    ),
)


# --- SideFX's Houdini bridge: names of files and texts ---------------------------------------


def _as_image(result: Result) -> Told:
    return Told(ui={"images": [blender.located(text) for text in result.texts]})


_HOUDINI = (
    Helper(
        "HouCuiStringAsImage",
        info(
            "HouCuiStringAsImage",
            {"image_path": ["STRING", {"tooltip": "The image path to output."}]},
            pack="houdini-connection",
            category="",
            title="String To Image Helper",
            output_node=True,
        ),
        becomes("PreviewAny", {"source": "image_path"}),
        frozenset({"PreviewAny"}),
        tells=Tells(_as_image),
        exact="The file that the text names.",
        differs="The file can be fetched only where it is an output that the cloud told of.",
    ),
    Helper(
        "HouStringPassThrough",
        info(
            "HouStringPassThrough",
            {"str_in": ["STRING", {"forceInput": True, "tooltip": "a string"}]},
            pack="houdini-connection",
            category="",
            outputs=[("STRING", "str_out")],
            title="String Pass Through",
        ),
        becomes("PrimitiveString", {"value": "str_in"}),
        frozenset({"PrimitiveString"}),
        exact="It is core's `PrimitiveString`.",
    ),
)


# --- pictures from an address, which the proxy fetches from allowed hosts alone --------------

_DIFFERS = (
    "Hosts must be in the setting `url_hosts`, and private addresses are never fetched. The "
    "address must be known before the run."
)


def _picture_at(name: str) -> Callable[[Node], None]:
    def become(node: Node) -> None:
        node.become("LoadImage", {"image": node.picture.name}, {"image": name})

    return become


_URLS = (
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
        _picture_at("image"),
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
        _picture_at("image_url"),
        frozenset({"LoadImage"}),
        reads=Reads("image_url", FileSource.URL),
        exact="The picture.",
        differs=f"{_DIFFERS} An address that cannot be fetched is an error, not a black picture.",
    ),
)


# --- the table -------------------------------------------------------------------------------

#: The packs by what they are for, in the order of the documentation.
PACKS: Mapping[str, tuple[Helper, ...]] = {
    "Krita AI Diffusion (comfyui-tooling-nodes) and core": tooling.HELPERS,
    "SwarmUI": swarm.HELPERS,
    "ComfyUI-Easy-Use": _EASY_USE,
    "ComfyUI-Blender": blender.HELPERS,
    "Houdini": _HOUDINI,
    "Pictures from an address": _URLS,
}

HELPERS: Mapping[str, Helper] = {one.name: one for pack in PACKS.values() for one in pack}


def offered(classes: Mapping[str, Any], *, preferred: bool) -> dict[str, dict[str, Any]]:
    """The entries of the helper classes that can stand beside the cloud's `classes`.

    A class that the cloud has is left to it unless ours are `preferred`; one whose core nodes the
    cloud lacks cannot run. An input written as `[Class.input]` is as the cloud's class has it.
    """
    return {
        name: _filled(helper.info, classes)
        for name, helper in HELPERS.items()
        if (preferred or name not in classes) and helper.needs <= classes.keys()
    }


def _filled(info: Mapping[str, Any], classes: Mapping[str, Any]) -> dict[str, Any]:
    groups = {
        group: {name: _spec(spec, classes) for name, spec in specs.items()}
        for group, specs in info["input"].items()
    }
    return {**info, "input": groups}


def _spec(spec: Any, classes: Mapping[str, Any]) -> Any:
    if not (isinstance(spec, list) and len(spec) == 1 and isinstance(spec[0], str)):
        return spec
    class_type, dot, name = spec[0].partition(".")
    info = classes.get(class_type)
    if not dot or not isinstance(info, Mapping):
        return spec
    declared = info.get("input")
    required = declared.get("required") if isinstance(declared, Mapping) else None
    return required.get(name, spec) if isinstance(required, Mapping) else spec
