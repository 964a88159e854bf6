"""The one table of helper nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.translate.helpers import blender, easy_use, houdini, swarm, tooling, urls
from proxy.translate.helpers.helper import Helper

#: The packs by what they are for, in the order of the documentation.
PACKS: Mapping[str, tuple[Helper, ...]] = {
    "Krita AI Diffusion (comfyui-tooling-nodes) and core": tooling.HELPERS,
    "SwarmUI": swarm.HELPERS,
    "ComfyUI-Easy-Use": easy_use.HELPERS,
    "ComfyUI-Blender": blender.HELPERS,
    "Houdini": houdini.HELPERS,
    "Pictures from an address": urls.HELPERS,
}

#: The classes that Krita AI Diffusion requires of a server by default, by pack.
KRITA_REQUIRES: Mapping[str, tuple[str, ...]] = {
    "ControlNet Preprocessors (comfyui_controlnet_aux)": (
        "InpaintPreprocessor",
        "DepthAnythingV2Preprocessor",
    ),
    "IP-Adapter (ComfyUI_IPAdapter_plus)": ("IPAdapterModelLoader", "IPAdapter"),
    "Inpaint Nodes (comfyui-inpaint-nodes)": (
        "INPAINT_LoadFooocusInpaint",
        "INPAINT_ShrinkMask",
        "INPAINT_StabilizeMask",
        "INPAINT_ColorMatch",
    ),
    "External Tooling Nodes (comfyui-tooling-nodes)": (
        "ETN_LoadImageCache",
        "ETN_SaveImageCache",
        "ETN_Translate",
    ),
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
