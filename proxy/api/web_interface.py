"""ComfyUI's web interface at `/`, or a page of our own, and its feature flags.

The packages of the web interface (the extra `ui`) are served as they are, where they are installed:
`comfyui-frontend-package` at `/`, `comfyui-workflow-templates…` below `/templates/`,
`comfyui-embedded-docs` below `/docs/`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from aiohttp import web

from proxy.api import bodies
from proxy.api.middleware import of

if TYPE_CHECKING:
    from proxy.api.server import Services


_FRONTEND = "comfyui_frontend_package"
_DOCS = "comfyui_embedded_docs"
_TEMPLATES = "comfyui_workflow_templates_core"


@dataclass(frozen=True, slots=True)
class WebInterface:
    """What of the web interface is installed; without a `frontend` `/` is a page of our own.

    `frontend` and `docs` are folders, `templates` has the path of each file by its name, `pictures`
    the names of those of templates whose package is not installed. The versions are those of the
    packages.
    """

    frontend: Path | None = None
    docs: Path | None = None
    templates: Mapping[str, Path] = field(default_factory=dict)
    pictures: frozenset[str] = frozenset()
    frontend_version: str | None = None
    templates_version: str | None = None

    def file(self, name: str) -> Path | None:
        """The file of the frontend at a path below `/`. Raises 403 for a folder."""
        return _within(self.frontend, name)

    def page_of_docs(self, name: str) -> Path | None:
        """The file of the documentation at a path below `/docs/`. Raises 403 for a folder."""
        return _within(self.docs, name)

    def extensions(self) -> list[str]:
        """The paths of the frontend's own extensions."""
        if self.frontend is None:
            return []
        found = (self.frontend / "extensions").rglob("*.js")
        return sorted(f"/{path.relative_to(self.frontend).as_posix()}" for path in found)


def installed() -> WebInterface:
    """The packages of this environment."""
    templates, pictures = _templates()
    return WebInterface(
        frontend=_folder(_FRONTEND, "static"),
        docs=_folder(_DOCS, "docs"),
        templates=templates,
        pictures=pictures,
        frontend_version=_version(_FRONTEND),
        templates_version=_version("comfyui_workflow_templates") or _version(_TEMPLATES),
    )


def _within(folder: Path | None, name: str) -> Path | None:
    """The file of this name, which may have slashes, if it lies in the folder."""
    if folder is None:
        return None
    path = Path(os.path.normpath(folder / name))
    if not path.is_relative_to(folder):
        return None
    try:
        if path.is_dir():
            raise web.HTTPForbidden
        return path if path.is_file() else None
    except OSError:  # a name that is too long
        return None


def _folder(package: str, name: str) -> Path | None:
    try:
        folder = Path(str(resources.files(package) / name))
    except ModuleNotFoundError:
        return None
    return folder if folder.is_dir() else None


def _templates() -> tuple[dict[str, Path], frozenset[str]]:
    """By the packages' own list: the files, and the names of those that are not installed."""
    try:
        core = importlib.import_module(_TEMPLATES)
    except ModuleNotFoundError:
        return {}, frozenset()
    found, missing = {}, set()
    for entry in core.iter_templates():
        for asset in entry.assets:
            try:
                found[asset.filename] = Path(core.get_asset_path(entry.template_id, asset.filename))
            except FileNotFoundError:
                if not asset.filename.endswith(".json"):
                    missing.add(asset.filename)
    return found, frozenset(missing)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_PAGE_HEADERS = {
    "Cache-Control": "no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
}

#: What Python's table lacks, or a system's own has wrong so that a browser refuses to run it.
_TYPES = {
    ".js": "application/javascript",
    ".mjs": "application/javascript",
    ".css": "text/css",
    ".webp": "image/webp",
}

_SOUNDS = (".mp3", ".wav", ".flac")

_TILE = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="400">'
    '<linearGradient id="g" x2="1" y2="1"><stop stop-color="hsl({},40%,32%)"/>'
    '<stop offset="1" stop-color="hsl({},45%,18%)"/></linearGradient>'
    '<rect width="400" height="400" fill="url(#g)"/></svg>'
)

_OWN_PAGE = (resources.files("proxy.api") / "welcome.html").read_bytes()


async def get_root(request: web.Request) -> web.StreamResponse:
    """The web interface, or a page that says what this is."""
    page = of(request).interface.file("index.html")
    if page is None:
        return web.Response(body=_OWN_PAGE, content_type="text/html", headers=_PAGE_HEADERS)
    return web.FileResponse(page, headers=_PAGE_HEADERS)


async def get_extensions(request: web.Request) -> web.Response:
    """The scripts that belong to the web interface; there are no custom nodes with more."""
    return bodies.json(of(request).interface.extensions())


async def get_template(request: web.Request) -> web.StreamResponse:
    """A workflow template, its pictures, or the list of all."""
    services, name = of(request), request.match_info["path"]
    if name not in services.interface.pictures:
        return _answer(services.interface.templates.get(name))
    picture = await services.catalog.template_picture(name)
    if picture is not None:
        body, type_ = picture
        return web.Response(body=body, headers={"Content-Type": type_})
    if name.endswith(_SOUNDS):
        return web.StreamResponse(status=404)
    headers = {"Content-Type": "image/svg+xml", "Cache-Control": "no-cache"}
    return web.Response(body=_tile(name), headers=headers)


def _tile(name: str) -> bytes:
    """What stands for a template's picture, in a colour of its own."""
    turn = crc32(name.partition("-")[0].encode()) % 360
    return _TILE.format(turn, (turn + 50) % 360).encode()


async def get_docs(request: web.Request) -> web.StreamResponse:
    """A page of the nodes' documentation."""
    return _answer(of(request).interface.page_of_docs(request.match_info["path"]))


async def get_file(request: web.Request) -> web.StreamResponse:
    """A file of the web interface, or 404: every GET that no other route takes comes here."""
    return _answer(of(request).interface.file(request.match_info["path"]))


def _answer(path: Path | None) -> web.StreamResponse:
    if path is None:
        return web.StreamResponse(status=404)
    type_ = _TYPES.get(path.suffix)
    return web.FileResponse(path, headers={"Content-Type": type_} if type_ else None)


def features(services: Services) -> dict[str, Any]:
    """The feature flags that `GET /features` and the websocket announce.

    They are ours and never the cloud's: a flag of the cloud can change how a local client reads
    what we send. `docs/web-interface.md` has all that the web interface reads.
    """
    return {
        "supports_preview_metadata": True,
        "supports_model_type_tags": True,
        "max_upload_size": services.most_upload_bytes,
        "extension": {"manager": {"supports_v4": True}},
        "node_replacements": True,
        "assets": services.assets is not None,
        "partner_run_gate_enabled": not services.pays_partner_nodes,
    }
