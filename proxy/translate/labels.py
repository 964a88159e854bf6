"""What a job is called in lists: the name of its workflow, its model, or its class."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import filterfalse
from typing import Any

from proxy.translate.jobs import inputs_of
from proxy.translate.workflow_metadata import workflow_of

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
    found = next(filter(None, _labels(graph, extra_data)), "")
    return found if len(found) <= MAX_LABEL else f"{found[: MAX_LABEL - 1]}…"


def _labels(graph: Mapping[str, Any], extra_data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the labels that a job may have, the most telling ones first; some may be empty."""
    for place in (extra_data, workflow_of(extra_data)):
        for field in _NAMES:
            yield _line(place.get(field))
    inputs = list(map(inputs_of, graph.values()))
    for name in _MODELS:
        for given in inputs:
            if name in given:
                yield _model(given[name])
    classes = list(map(_class, graph.values()))
    yield from filterfalse(_DULL.match, classes)
    yield from classes


def _class(node: object) -> str:
    return _line(node.get("class_type")) if isinstance(node, dict) else ""


def _line(value: object) -> str:
    """Return a string as one line, `""` for anything else."""
    return " ".join(value[:1000].split()) if isinstance(value, str) else ""


def _model(value: object) -> str:
    """Return a model's name without its folders and its extension."""
    return _MODEL_EXTENSION.sub("", _FOLDERS.split(_line(value))[-1])
