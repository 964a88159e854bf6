"""ComfyUI's web interface: the files of its packages.

The packages (the extra `ui`) are served unchanged if they are installed:
`comfyui-frontend-package` at `/`, `comfyui-workflow-templates…` below `/templates/`,
`comfyui-embedded-docs` below `/docs/`.
"""

from __future__ import annotations

import importlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from aiohttp import web
from msgspec import Struct, field

_FRONTEND = "comfyui_frontend_package"
_DOCS = "comfyui_embedded_docs"
_TEMPLATES = "comfyui_workflow_templates_core"

#: Media types that Python's table lacks, or that a system's table may have wrong.
_TYPES = {
    ".js": "application/javascript",
    ".mjs": "application/javascript",
    ".css": "text/css",
    ".webp": "image/webp",
}


class WebInterface(Struct, frozen=True):
    """The installed parts of the web interface; without a `frontend`, `/` is a page of our own.

    `frontend` and `docs` are folders, `templates` has the path of each file by its name, `pictures`
    the names of pictures of templates whose package is not installed. The versions are those of the
    packages.
    """

    frontend: Path | None = None
    docs: Path | None = None
    templates: Mapping[str, Path] = field(default_factory=dict)
    pictures: frozenset[str] = frozenset()
    frontend_version: str | None = None
    templates_version: str | None = None

    def extensions(self) -> list[str]:
        """Return the paths of the frontend's own extensions."""
        if self.frontend is None:
            return []
        found = (self.frontend / "extensions").rglob("*.js")
        return sorted(f"/{path.relative_to(self.frontend).as_posix()}" for path in found)


def installed() -> WebInterface:
    """Return the installed packages of this environment."""
    templates, pictures = _templates()
    return WebInterface(
        frontend=frontend(),
        docs=_folder(_DOCS, "docs"),
        templates=templates,
        pictures=pictures,
        frontend_version=_version(_FRONTEND),
        templates_version=_version("comfyui_workflow_templates") or _version(_TEMPLATES),
    )


def within(folder: Path | None, name: str) -> Path | None:
    """Return the file of this name, which may have slashes, if it is in the folder. Raises
    `HTTPForbidden` for a folder."""
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


def packaged(path: Path | None) -> web.StreamResponse:
    """Return the answer with a file of a package, 404 without one."""
    if path is None:
        return web.StreamResponse(status=404)
    type_ = _TYPES.get(path.suffix)
    return web.FileResponse(path, headers={"Content-Type": type_} if type_ else None)


def frontend() -> Path | None:
    """Return the folder of the official frontend, None where it is not installed."""
    return _folder(_FRONTEND, "static")


def _folder(package: str, name: str) -> Path | None:
    try:
        folder = Path(str(resources.files(package) / name))
    except ModuleNotFoundError:
        return None
    return folder if folder.is_dir() else None


def _templates() -> tuple[dict[str, Path], frozenset[str]]:
    """Return the files of the packages' own list, and the names of those that are not installed."""
    try:
        core = importlib.import_module(_TEMPLATES)
    except ModuleNotFoundError:
        return {}, frozenset()
    bundles = defaultdict[str, list[tuple[str, str]]](list)
    for entry in core.iter_templates():
        for asset in entry.assets:
            bundle = "" if _is_workflow(asset.filename) else asset.bundle or entry.bundle
            bundles[bundle].append((entry.template_id, asset.filename))
    found: dict[str, Path] = {}
    for files in bundles.values():
        found |= _installed_files(core, files)
    names = {name for files in bundles.values() for _, name in files if not _is_workflow(name)}
    return found, frozenset(names - found.keys())


def _is_workflow(name: str) -> bool:
    return name.endswith(".json")


def _installed_files(core: Any, files: Iterable[tuple[str, str]]) -> dict[str, Path]:
    """Return the paths of one package's files, given as template and name, that are installed."""
    found = {}
    for template, name in files:
        try:
            found[name] = Path(core.get_asset_path(template, name))
        except FileNotFoundError as error:
            # To look for a package that is not installed takes long: once is enough.
            if isinstance(error.__cause__, ModuleNotFoundError):
                break
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
