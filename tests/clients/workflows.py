"""Workflows as people export them for these clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Graph = dict[str, Any]


def titled(graph: Graph) -> Graph:
    """With a title for each node, as the editor's export has it; here the class's name."""
    return {
        node_id: {**node, "_meta": {"title": node["class_type"]}} for node_id, node in graph.items()
    }


def saved(graph: Graph, folder: Path) -> Path:
    """Written to a file."""
    path = folder / "workflow_api.json"
    path.write_text(json.dumps(titled(graph)), encoding="utf-8")
    return path


def over_the_websocket(graph: Graph) -> Graph:
    """With its pictures sent on the websocket instead of saved."""
    changed = dict(graph)
    for node_id, node in graph.items():
        if node["class_type"] == "SaveImage":
            images = node["inputs"]["images"]
            changed[node_id] = {"class_type": "SaveImageWebsocket", "inputs": {"images": images}}
    return changed
