"""Workflow templates: their files, their pictures, and the lists of them.

A simulator has few nodes and models: its lists have the templates that run on it, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import Any
from zlib import crc32

from aiohttp import web

from proxy.api import bodies
from proxy.api.content import content_headers
from proxy.api.holding import in_turn
from proxy.api.keys import CATALOG, INTERFACE, OPTIONS
from proxy.api.requests import member_of
from proxy.api.web_interface import packaged
from proxy.translate import codec, editor
from proxy.translate.shapes import Shapes
from proxy.translate.validation import validate

_SOUNDS = (".mp3", ".wav", ".flac")

_TILE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="400">'
    '<linearGradient id="g" x2="1" y2="1"><stop stop-color="hsl({turn},25%,32%)"/>'
    '<stop offset="1" stop-color="hsl({end},25%,18%)"/></linearGradient>'
    '<rect width="400" height="400" fill="url(#g)"/><text x="200" y="200" fill="#ddd" '
    'font-family="sans-serif" font-size="22" text-anchor="middle">{title}</text></svg>'
)


async def get_template(request: web.Request) -> web.StreamResponse:
    """Return a workflow template, one of its pictures, or the list of all templates."""
    name = request.match_info["path"]
    interface, simulated = request.app[INTERFACE], request.app[OPTIONS].simulated
    if name not in interface.pictures:
        if simulated and name in interface.templates and _is_list(name):
            return bodies.json(await _running(request, interface.templates, name))
        return packaged(interface.templates.get(name))
    if name.endswith(_SOUNDS) and simulated:
        return web.StreamResponse(status=404)
    picture = None if simulated else await request.app[CATALOG].extras.template_picture(name)
    if picture is not None:
        body, type_ = picture
        headers = content_headers(type_, request.headers.get("Sec-Fetch-Dest"))
        return web.Response(body=body, headers=headers)
    if name.endswith(_SOUNDS):
        return web.StreamResponse(status=404)
    headers = {"Content-Type": "image/svg+xml", "Cache-Control": "no-cache"}
    return web.Response(body=_tile(name), headers=headers)


def _tile(name: str) -> bytes:
    """Return a placeholder of a template's picture, with the template's name."""
    title = name.rpartition("-")[0] or name.partition(".")[0]
    turn = crc32(title.encode()) % 360
    words = escape(title.replace("_", " ")[:34])
    return _TILE.format(turn=turn, end=(turn + 30) % 360, title=words).encode()


# --- the lists of a simulator -------------------------------------------------------------------


def _is_list(name: str) -> bool:
    return name == "index.json" or (name.startswith("index.") and name.count(".") == 2)


async def _running(request: web.Request, templates: Mapping[str, Path], name: str) -> Any:
    """Return a list with the templates that run. They are looked at in the member's turn, in a
    thread."""
    member = member_of(request)
    classes = await request.app[CATALOG].classes(member)
    shapes = await request.app[CATALOG].shapes(member)
    work = partial(running_templates, templates, name, classes, shapes)
    return await in_turn(request, work)


def running_templates(
    templates: Mapping[str, Path], name: str, classes: Mapping[str, Any], shapes: Shapes
) -> Any:
    """Return the list `name` of the package, by categories, with the templates that run on these
    node classes. Anything else in the file is returned as it is."""
    listed = codec.loads(templates[name].read_bytes())
    if not isinstance(listed, list):
        return listed
    found = []
    for category in listed:
        entries = [
            entry
            for entry in category["templates"]
            if _runs(templates.get(f"{entry['name']}.json"), classes, shapes)
        ]
        if entries:
            found.append({**category, "templates": entries})
    return found


def _runs(path: Path | None, classes: Mapping[str, Any], shapes: Shapes) -> bool:
    """Return whether the workflow of a template can run."""
    if path is None:
        return False
    drawing = codec.loads(path.read_bytes())
    if not editor.is_editors(drawing) or not editor.classes_of(drawing) <= classes.keys():
        return False
    try:
        graph = editor.graph_of(drawing, classes, lambda choices: choices[0])
    except editor.EditorError:
        return False
    return bool(graph) and validate(graph, None, shapes, has_file=lambda _: False).faultless
