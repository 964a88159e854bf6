"""The files of the dashboard's page: plain HTML, CSS and ES modules, read once."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from proxy.api import answers

_PAGE = Path(__file__).with_name("page")
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_FILES = {path.name: path.read_bytes() for path in _PAGE.iterdir() if path.suffix in _TYPES}

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


async def get_bare(_: web.Request) -> web.Response:
    """Redirect to `/proxy/`."""
    return web.Response(status=302, headers={"Location": "proxy/"})


async def get_page(_: web.Request) -> web.Response:
    """The page."""
    return _file("index.html")


async def get_part(request: web.Request) -> web.Response:
    """The page's style, scripts and icon."""
    name = request.match_info["name"]
    return _file(name) if name in _FILES else answers.empty(404)


def _file(name: str) -> web.Response:
    kind = _TYPES[Path(name).suffix]
    return web.Response(body=_FILES[name], content_type=kind, charset="utf-8", headers=_HEADERS)
