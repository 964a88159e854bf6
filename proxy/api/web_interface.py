"""ComfyUI's web interface at `/`, or a page of our own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from aiohttp import web

from proxy.api import answers
from proxy.api.services import of

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

_OWN_PAGE = (resources.files("proxy.api") / "welcome.html").read_bytes()


async def get_root(request: web.Request) -> web.StreamResponse:
    """The web interface, or a page that says what this is."""
    page = of(request).interface.file("index.html")
    if page is None:
        return web.Response(body=_OWN_PAGE, content_type="text/html", headers=_PAGE_HEADERS)
    return web.FileResponse(page, headers=_PAGE_HEADERS)


async def get_extensions(request: web.Request) -> web.Response:
    """The scripts that belong to the web interface; there are no custom nodes with more."""
    return answers.json(of(request).interface.extensions())


async def get_template(request: web.Request) -> web.StreamResponse:
    """A workflow template, its pictures, or the list of all."""
    return _answer(of(request).interface.templates.get(request.match_info["path"]))


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
