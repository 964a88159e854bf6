"""Targets: what clients submit, and the classes of the cloud that it is checked against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from fuzz import seeds
from fuzz.harness import of_json

from proxy.api import request_bodies
from proxy.api.jobs import parse_prompt
from proxy.costs.job_cost import JobRun, Pricing, reported_price
from proxy.costs.prices import estimated_price
from proxy.jobs.models import JobRequest
from proxy.packs.discovery import PACK_NODES
from proxy.packs.loading import loads_of
from proxy.packs.nodes import Picture
from proxy.packs.rewriting import rewrite, wanted
from proxy.simulator.nodes import object_info, standard_nodes
from proxy.simulator.nodes.special import NODES, PARTNER
from proxy.translate import codec, editor, jobs
from proxy.translate.errors import LocalError
from proxy.translate.graph_shape import shape_of as graph_shape_of
from proxy.translate.graph_shape import signatures_of
from proxy.translate.labels import label_of
from proxy.translate.names import written_place
from proxy.translate.prompts import interface_workflow, prompt_texts
from proxy.translate.shapes import Shape, Shapes, shape_of
from proxy.translate.validation import validate

CLASSES: dict[str, Any] = {
    **object_info(standard_nodes()),
    **{name: node.info for name, node in PACK_NODES.items()},
}


def _shapes(classes: Mapping[str, Any]) -> Shapes:
    @cache
    def shape(name: str) -> Shape | None:
        info = classes.get(name)
        return shape_of(name, info) if isinstance(info, dict) else None

    return shape


SHAPES = _shapes(CLASSES)


def _has_file(name: str) -> bool:
    return name.startswith("mine")


#: Values of a graph that is read on the event loop; larger ones are read in threads.
_MAX_VALUES = 5_000


def _small(body: Any) -> JobRequest:
    """Return the request of a body. Raises `LocalError`, also for a large graph."""
    request = parse_prompt(body, "header")
    if jobs.has_more_values(request.graph, _MAX_VALUES):
        raise LocalError("large", "It is read in a thread.")
    return request


@of_json(LocalError, parse=request_bodies.parse, seeds=seeds.prompts)
def prompt(body: Any) -> None:
    """Read a submission and check its graph."""
    request = _small(body)
    found = validate(request.graph, request.targets, SHAPES, has_file=_has_file)
    codec.dump_bytes([found.error, found.node_errors])
    if found.error is None:
        codec.dump_bytes(found.kept(request.graph))


@of_json(LocalError, parse=request_bodies.parse, seeds=seeds.prompts)
def graph_texts(body: Any) -> None:
    """Look for what people are shown of a submission."""
    request = parse_prompt(body)
    graph_shape_of(request.graph)
    label_of(request.graph, request.extra_data)
    prompt_texts(request.graph, CLASSES.get)
    interface_workflow(request.extra_data)
    reported_price(str(request.extra_data.get("text")))


@of_json(LocalError, parse=request_bodies.parse, seeds=seeds.prompts)
def graph_files(body: Any) -> None:
    """Look for names of files in a graph, and write the cloud's in their place."""
    graph = _small(body).graph
    jobs.file_strings(graph, SHAPES)
    jobs.foreign_files(graph, _has_file)
    jobs.substitute(graph, shapes=SHAPES, cloud_name=lambda place: f"{place.path}.png")
    for node_id in list(graph)[:3]:
        written_place(node_id)


@of_json(LocalError, parse=request_bodies.parse, seeds=seeds.prompts)
def graph_names(body: Any) -> None:
    """Write the client's names in place of the cloud's, and find nodes that compute the same."""
    graph = _small(body).graph
    sent = {node_id: {**node, "inputs": {"image": node_id}} for node_id, node in graph.items()}
    names = {cloud: local for local, cloud in jobs.written_names(graph, sent).items()}
    jobs.reveal(sent, names)
    jobs.words(graph)
    signatures_of(graph, graph)


@of_json(
    LocalError,
    parse=request_bodies.parse,
    seeds=lambda: [
        *seeds.prompts(),
        *(
            {"prompt": {"1": {"class_type": name, "inputs": _inputs(node.info)}}}
            for name, node in PACK_NODES.items()
        ),
    ],
)
def packs(body: Any) -> None:
    """Put nodes of the cloud in place of those of packs."""
    request = _small(body)
    if jobs.malformed_inputs(request.graph):
        return
    nodes = wanted(request.graph, request.targets, PACK_NODES)
    loads = loads_of(request.graph, nodes)
    pictures = dict.fromkeys(loads, Picture("a.png", "b.png", 8, 8))
    rewrite(request.graph, request.targets, PACK_NODES.keys(), pictures, CLASSES.get)


def _inputs(info: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the inputs of a class: a link each."""
    declared = info.get("input", {})
    names = (*declared.get("required", ()), *declared.get("optional", ()))
    return {name: ["2", 0] for name in names}


@of_json(
    parse=codec.loads_text,
    seeds=lambda: (
        {"info": CLASSES[name], "inputs": {"a": 1}}
        for name in ("KSampler", "LoadImage", "SaveImage", "EmptyImage", "ETN_LoadImageBase64")
    ),
)
def node_class(value: Any) -> None:
    """Check a node of a class that the cloud describes."""
    info, inputs = _member(value, "info"), _member(value, "inputs")
    node = {"class_type": "Given", "inputs": inputs}
    graph = {"1": node, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    shapes = _shapes({**CLASSES, "Given": info})
    codec.dump_bytes(validate(graph, None, shapes, has_file=_has_file).node_errors)
    jobs.file_strings(graph, shapes)
    prompt_texts(graph, {"Given": info}.get)


def _member(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


_PARTNER = next(node.object_info() for node in NODES if node.name == PARTNER)
_PRICES = (
    '{"type":"usd","usd":0.06}',
    '{"usd": [0.1,0.2][1]}',
    '($p := {"a": {"min": 0.1, "max": 1}}; $x := $lookup($p, widgets.model);'
    ' {"type": "range_usd", "min_usd": $x.min, "max_usd": $x.max})',
    '{"usd": inputs.image.connected ? 0.02 + 0.01 * inputGroups.refs : $round(1.5 * widgets.n, 2)}',
    '{"usd": $contains(widgets.model, "a") and widgets.n > 1 ? $max([1, 2]) : $sum([1]) & ""}',
)


@of_json(
    parse=codec.loads_text,
    seeds=lambda: (
        {
            "expr": expression,
            "depends_on": {"widgets": [{"name": "n", "type": "INT"}, "model"], "inputs": ["image"]},
            "inputs": {"n": 3, "model": "a", "image": ["1", 0]},
        }
        for expression in _PRICES
    ),
)
def price(value: Any) -> None:
    """Estimate the price of a run by what a class says."""
    badge = value if isinstance(value, dict) else {}
    info = {**_PARTNER, "price_badge": badge}
    inputs = _member(value, "inputs")
    estimated_price(info, inputs)
    known: Callable[[str], Mapping[str, Any]] = {"Partner": info}.__getitem__
    graph = {"1": {"class_type": "Partner", "inputs": inputs}}
    Pricing(known, estimated_price, 1).cost_of(JobRun(graph, "default", 1000, ran=graph.keys))


@of_json(parse=codec.loads_text, seeds=lambda: iter(["Price: 8.4 credits", "Credits used: $0.04"]))
def price_text(value: Any) -> None:
    """Read the price that a node has written."""
    reported_price(str(value))


_EDITOR = {
    "nodes": [
        {
            "id": 1,
            "type": "KSampler",
            "widgets_values": [7, "randomize", 20, 7.5, "euler", "normal", 1.0],
            "inputs": [{"name": "model", "type": "MODEL", "link": 1}],
            "outputs": [{"name": "LATENT", "type": "LATENT", "links": [2]}],
            "mode": 0,
            "order": 1,
        },
        {"id": 2, "type": "Reroute", "inputs": [{"name": "", "link": 2}], "mode": 4},
        {"id": 3, "type": "sub", "widgets_values": ["{a|b} // c"], "inputs": [{"name": "t"}]},
        {"id": 4, "type": "PrimitiveNode", "widgets_values": [5]},
        {"id": 5, "type": "SetNode", "widgets_values": ["x"], "inputs": [{"name": "a", "link": 3}]},
        {"id": 6, "type": "GetNode", "widgets_values": ["x"], "outputs": [{"links": [4]}]},
        {"id": 7, "type": "CLIPTextEncode", "widgets_values": {"text": "{day|night} /* x */"}},
    ],
    "links": [[1, 3, 0, 1, 0, "MODEL"], {"id": 2, "origin_id": 1, "origin_slot": 0}],
    "definitions": {
        "subgraphs": [
            {
                "id": "sub",
                "nodes": [{"id": 1, "type": "CLIPTextEncode", "widgets_values": ["a"]}],
                "inputs": [{"name": "t", "type": "STRING"}],
                "outputs": [{"name": "o"}],
                "links": [{"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 1}],
            }
        ]
    },
    "extra": {},
    "version": 0.4,
}


def _first(choices: Sequence[str]) -> str:
    return choices[0]


@of_json(
    LocalError,
    editor.EditorError,
    parse=request_bodies.parse,
    seeds=lambda: [_EDITOR, seeds.drawing()],
)
def editor_file(value: Any) -> None:
    """Make a graph of a file of the editor."""
    if editor.is_editors(value):
        editor.classes_of(value)
        codec.dump_bytes(editor.graph_of(value, CLASSES, _first))
