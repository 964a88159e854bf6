"""A subgraph blueprint, as ComfyUI's web interface reads it: a workflow of one subgraph."""

from __future__ import annotations

from typing import Any

_SUBGRAPH_ID = "5a0f3a52-54a1-4f0e-9c37-0f6c1f2b7d11"


def inverted_picture(name: str) -> dict[str, Any]:
    """Return a blueprint with a picture as its input and the negative as its output."""
    inside = {
        "id": 1,
        "type": "ImageInvert",
        "pos": [300, 100],
        "size": [210, 26],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": "image", "type": "IMAGE", "link": 1}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [2]}],
        "properties": {"Node name for S&R": "ImageInvert"},
        "widgets_values": [],
    }
    subgraph = {
        "id": _SUBGRAPH_ID,
        "version": 1,
        "revision": 0,
        "state": {"lastGroupId": 0, "lastNodeId": 1, "lastLinkId": 2, "lastRerouteId": 0},
        "config": {},
        "name": name,
        "inputNode": {"id": -10, "bounding": [100, 90, 120, 60]},
        "outputNode": {"id": -20, "bounding": [600, 90, 120, 60]},
        "inputs": [_port("0c8a2d7e-4b7c-4d43-8a52-1f1f4f3c9a01", "image", 1, [200, 110])],
        "outputs": [_port("0c8a2d7e-4b7c-4d43-8a52-1f1f4f3c9a02", "IMAGE", 2, [620, 110])],
        "widgets": [],
        "nodes": [inside],
        "groups": [],
        "links": [_link(1, (-10, 0), (1, 0)), _link(2, (1, 0), (-20, 0))],
        "extra": {},
    }
    outside = {
        "id": 1,
        "type": _SUBGRAPH_ID,
        "pos": [100, 100],
        "size": [210, 46],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": "image", "type": "IMAGE", "link": None}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}],
        "properties": {},
        "widgets_values": [],
        "title": name,
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outside],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _port(id_: str, name: str, link: int, pos: list[int]) -> dict[str, Any]:
    return {"id": id_, "name": name, "type": "IMAGE", "linkIds": [link], "pos": pos}


def _link(id_: int, origin: tuple[int, int], target: tuple[int, int]) -> dict[str, Any]:
    return {
        "id": id_,
        "origin_id": origin[0],
        "origin_slot": origin[1],
        "target_id": target[0],
        "target_slot": target[1],
        "type": "IMAGE",
    }
