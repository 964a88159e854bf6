"""The workflows of the level `run`: small ones without a model, about a second each."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from typing import Any

from comfy_cloud_probe.wire import Graph

#: Where the saved files go, in the user's own outputs.
PREFIX = "comfy-cloud-proxy-probe/probe"

#: Classes that every ComfyUI has, of whatever age.
_CORE = frozenset({"EmptyImage", "ImageBatch", "PreviewAny", "PreviewImage", "SaveImage"})

#: Edge of the pictures of the slow graph, and how often they are scaled: some seconds of work.
_LARGE = 4096
_STEPS = 60


def whole(upload: str, classes: Mapping[str, Any]) -> Graph:
    """Return a graph with a picture in, and a picture, a video, previews and a progress text out,
    as far as the classes exist."""
    graph = {
        "1": _node("LoadImage", image=upload),
        "2": _node("ImageInvert", image=["1", 0]),
        "3": _node("SaveImage", images=["2", 0], filename_prefix=PREFIX),
        "4": _node("SaveImageWebsocket", images=["2", 0]),
        "5": _node("GetImageSize", image=["2", 0]),
        "6": _node("PreviewAny", source=["5", 0]),
        "7": _node("CreateVideo", images=["2", 0], fps=8.0),
        "8": _node(
            "SaveVideo", video=["7", 0], filename_prefix=PREFIX, format="auto", codec="auto"
        ),
    }
    return _possible(graph, classes)


def failing(classes: Mapping[str, Any]) -> Graph:
    """Return a graph that is valid and fails when it runs: the pattern is no regular expression."""
    return _possible(
        {
            "1": _node("RegexReplace", string="a", regex_pattern="(", replace="b"),
            "2": _node("PreviewAny", source=["1", 0]),
        },
        classes,
    )


def slow(classes: Mapping[str, Any]) -> Graph:
    """Return a graph of some seconds of work that no cache has."""
    graph = {"1": _node("EmptyImage", width=_LARGE, height=_LARGE, batch_size=1, color=_shade())}
    for step in range(2, _STEPS + 2):
        size = {"width": _LARGE - step % 2, "height": _LARGE - step % 2}
        scaled = {"image": [str(step - 1), 0], "upscale_method": "lanczos", "crop": "disabled"}
        graph[str(step)] = _node("ImageScale", **scaled, **size)
    graph["99"] = _node("PreviewImage", images=[str(_STEPS + 1), 0])
    return _possible(graph, classes)


def tiny() -> Graph:
    """Return a graph of a small picture that no cache has."""
    return {
        "1": _node("EmptyImage", width=64, height=64, batch_size=1, color=_shade()),
        "2": _node("PreviewImage", images=["1", 0]),
    }


def outputs(classes: Mapping[str, Any]) -> Graph:
    """Return a graph with two equal pictures in one node, three in another one, temporary ones and
    a text; a video, a GIF and previews as far as the classes are known."""
    graph = {
        "1": _node("EmptyImage", width=64, height=64, batch_size=2, color=_shade()),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="probe"),
        "3": _node("PreviewImage", images=["1", 0]),
        "4": _node("PreviewAny", source=["1", 0]),
        "5": _node("EmptyImage", width=64, height=64, batch_size=1, color=_shade()),
        "6": _node("ImageBatch", image1=["1", 0], image2=["5", 0]),
        "7": _node("SaveImage", images=["6", 0], filename_prefix="probe-list"),
        "8": _node("CreateVideo", images=["6", 0], fps=8.0),
        "9": _node(
            "SaveVideo", video=["8", 0], filename_prefix="probe", format="auto", codec="auto"
        ),
        "10": _node(
            "VHS_VideoCombine",
            images=["6", 0],
            frame_rate=8,
            loop_count=0,
            filename_prefix="probe",
            format="image/gif",
            pingpong=False,
            save_output=True,
        ),
        "11": _node("SaveImageWebsocket", images=["6", 0]),
    }
    return _possible(graph, classes.keys() | _CORE)


def out_of_bounds() -> Graph:
    """Return a graph with a value that is too small."""
    graph = tiny()
    graph["1"]["inputs"]["width"] = -1
    return graph


def shown(value: Any) -> Graph:
    """Return a graph with a node that takes anything, and shows it."""
    return {"1": _node("PreviewAny", source=value)}


def loaded(picture: Any) -> Graph:
    """Return a graph that loads a picture and shows it."""
    return {"1": _node("LoadImage", image=picture), "2": _node("PreviewImage", images=["1", 0])}


def annotated(upload: str) -> Graph:
    """Return a graph that names the upload with its folder, as local clients do."""
    return {
        "1": _node("LoadImage", image=f"{upload} [input]"),
        "2": _node("PreviewImage", images=["1", 0]),
    }


def sound(name: str, classes: Mapping[str, Any]) -> Graph:
    """Return a graph that loads a sound and shows it."""
    return _possible(
        {"1": _node("LoadAudio", audio=name), "2": _node("PreviewAudio", audio=["1", 0])}, classes
    )


def invalid() -> Graph:
    """Return a graph with a node without its required input: nothing of it can run."""
    return {"1": _node("PreviewImage")}


def partly_valid() -> Graph:
    """Return a graph with one output that can run and one that cannot."""
    return {**tiny(), "3": _node("PreviewImage")}


def _shade() -> int:
    """Return any colour."""
    return int.from_bytes(os.urandom(3))


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _possible(graph: Graph, classes: Container[str]) -> Graph:
    """Return the nodes whose classes the catalog has, and whose sources exist too."""
    kept: Graph = {}
    for node_id, node in graph.items():
        sources = [value[0] for value in node["inputs"].values() if isinstance(value, list)]
        if node["class_type"] in classes and all(source in kept for source in sources):
            kept[node_id] = node
    return kept
