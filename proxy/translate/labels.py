"""What people call a job, and what its nodes say that it has cost. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: Characters of a label; a client may name its workflow as it likes.
MOST_CHARACTERS = 120

#: Inputs of loaders that name the model of a workflow, the telling ones first.
_MODELS = ("ckpt_name", "unet_name", "model_name", "model", "gguf_name")
#: Where clients write the name of a workflow.
_NAMES = ("name", "title", "workflow_name")

#: Classes that say nothing about a workflow: they save, preview, or unpack what others make.
_DULL = re.compile(r"^(Save|Preview|VAEDecode|VAEEncode|LoadImage|ETN_|Reroute|Primitive)")

#: As partner nodes write it in their progress text: `Price: $0.0400`, `Price: 8.4 credits`.
_PRICE = re.compile(
    r"^(?:Price|Credits(?: used)?): *(?P<dollar>\$)?(?P<number>[0-9][0-9,]{0,12}(?:\.[0-9]{1,9})?)",
    re.MULTILINE | re.IGNORECASE,
)


def label_of(graph: Mapping[str, Any], extra_data: Mapping[str, Any]) -> str:
    """The name of a job's workflow, or else its model, or else its most telling node class.

    Never longer than `MOST_CHARACTERS`; `""` for a graph of which nothing is told.
    """
    found = next((one for one in _labels(graph, extra_data) if one), "")
    return found if len(found) <= MOST_CHARACTERS else f"{found[: MOST_CHARACTERS - 1]}…"


def _labels(graph: Mapping[str, Any], extra_data: Mapping[str, Any]) -> Iterator[str]:
    pnginfo = extra_data.get("extra_pnginfo")
    workflow = pnginfo.get("workflow") if isinstance(pnginfo, Mapping) else None
    for place in (extra_data, workflow):
        if isinstance(place, Mapping):
            yield from (_line(place.get(name)) for name in _NAMES)
    nodes = [node for node in graph.values() if isinstance(node, Mapping)]
    inputs = [some for node in nodes if isinstance(some := node.get("inputs"), Mapping)]
    for name in _MODELS:
        yield from (_model(some.get(name)) for some in inputs)
    classes = [_line(node.get("class_type")) for node in nodes]
    yield from (one for one in classes if not _DULL.match(one))
    yield from classes


def _line(value: object) -> str:
    """A string as one line, `""` for anything else."""
    return " ".join(value[:1000].split()) if isinstance(value, str) else ""


def _model(value: object) -> str:
    """A model's name without its folders and its extension."""
    name = re.split(r"[\\/]", _line(value))[-1]
    return re.sub(r"\.(safetensors|ckpt|pt|pth|bin|gguf|sft)$", "", name, flags=re.IGNORECASE)


def cost_of(texts: Iterable[str]) -> dict[str, float]:
    """What nodes say that they have cost, in `usd` and `credits`, of the last text of each node.

    Comfy Cloud tells the cost of a job nowhere else. `{}` where no text has a price.
    """
    total: dict[str, float] = {}
    for text in texts:
        found = _PRICE.search(text)
        if found is not None:
            unit = "usd" if found["dollar"] else "credits"
            total[unit] = total.get(unit, 0.0) + float(found["number"].replace(",", ""))
    return {unit: round(value, 4) for unit, value in total.items()}
