"""Headers that keep addresses with tokens and members' answers from others."""

from __future__ import annotations

from aiohttp import web

from proxy.api.access import DOOR
from proxy.api.prefix import way_of

_CREDENTIALS = "Cookie, Authorization, X-API-Key"


async def keep_private(request: web.Request, response: web.StreamResponse) -> None:
    """A signal: no page tells other sites its address, and no cache gives one member's to another.

    A page whose address has a token tells it to nobody, not even to its own site's pages.
    """
    way, headers = way_of(request), response.headers
    if way.path_token is not None or way.query_tokens:
        headers["Referrer-Policy"] = "no-referrer"
    elif headers.get("Content-Type", "").startswith("text/html"):
        headers.setdefault("Referrer-Policy", "same-origin")
    if request.app[DOOR].members.has_members:
        kept = headers.get("Cache-Control", "")
        if kept.startswith("public"):
            headers["Cache-Control"] = kept.replace("public", "private", 1)
        headers.add("Vary", _CREDENTIALS)
