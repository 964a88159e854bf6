"""What a job is called in lists: the name of its workflow, its model, or its class."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from proxy.translate.jobs import inputs_of

#: Characters of a label; a client may name its workflow as it likes.
MAX_LABEL = 120

#: Inputs of loaders that name the model of a workflow, the telling ones first.
_MODELS = ("ckpt_name", "unet_name", "model_name", "model", "gguf_name")

_FOLDERS = re.compile(r"[\\/]")
_MODEL_EXTENSION = re.compile(r"\.(safetensors|ckpt|pt|pth|bin|gguf|sft)$", re.IGNORECASE)

#: Where clients write the name of a workflow.
_NAMES = ("name", "title", "workflow_name")

#: Classes that say nothing about a workflow: they save, preview, or unpack what others make.
_DULL = re.compile(r"^(Save|Preview|VAEDecode|VAEEncode|LoadImage|ETN_|Reroute|Primitive)")


def label_of(graph: Mapping[str, Any], extra_data: Mapping[str, Any]) -> str:
    """Return the name of a job's workflow, or else its model, or else its most telling node class.

    Never longer than `MAX_LABEL`; `""` for a graph without anything to show.
    """
    found = _name(extra_data) or _model_or_class(graph)
    return found if len(found) <= MAX_LABEL else f"{found[: MAX_LABEL - 1]}…"


def _name(extra_data: Mapping[str, Any]) -> str:
    """Return the name of the workflow that came with a job, `""` if it has none."""
    pnginfo = extra_data.get("extra_pnginfo")
    workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
    for place in (extra_data, workflow):
        if isinstance(place, dict):
            for field in _NAMES:
                if name := _line(place.get(field)):
                    return name
    return ""


def _model_or_class(graph: Mapping[str, Any]) -> str:
    """Return the first model of the most telling input, or else the first telling class, or else
    the first one."""
    found = [""] * (len(_MODELS) + 2)  # the models, a telling class, any class
    for node in graph.values():
        inputs = inputs_of(node)
        for place, name in enumerate(_MODELS):
            if name in inputs and not found[place]:
                found[place] = _model(inputs[name])
        class_type = _line(node.get("class_type") if isinstance(node, dict) else None)
        place = -1 if _DULL.match(class_type) else -2
        found[place] = found[place] or class_type
    return next(filter(None, found), "")


def _line(value: object) -> str:
    """Return a string as one line, `""` for anything else."""
    return " ".join(value[:1000].split()) if isinstance(value, str) else ""


def _model(value: object) -> str:
    """Return a model's name without its folders and its extension."""
    return _MODEL_EXTENSION.sub("", _FOLDERS.split(_line(value))[-1])
