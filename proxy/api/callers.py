"""Who the client of a request is, and how it calls the server.

Reverse proxies say it in headers. Anybody can send these, so that only those of trusted proxies
count.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from aiohttp import web

from proxy.api.requests import connection_of, token_of
from proxy.edge.addressing import Headers, header_items


class Site(NamedTuple):
    """How a client calls the server."""

    scheme: str
    host: str


def address_of(request: web.BaseRequest) -> str:
    """Return the address of the client of a request."""
    return connection_of(request).address


def site_of(request: web.BaseRequest) -> Site:
    """Return how the client of a request calls the server: by the scheme of the connection and
    `Host`, unless the nearest proxy is trusted and says otherwise."""
    headers, scheme = request.headers, request.scheme
    host = headers.get("Host", "")
    if not connection_of(request).peer.proxies:
        return Site(scheme, host)
    forwarded = _last(headers, "X-Forwarded-Proto").lower()
    return Site(
        forwarded if forwarded in ("http", "https") else scheme,
        _last(headers, "X-Forwarded-Host") or host,
    )


def _last(headers: Headers, name: str) -> str:
    items = header_items(headers, name)
    return items[-1] if items else ""


def submitter_of(request: web.Request) -> str:
    """Return an identifier of the program that sent a request, of its token, address and
    `User-Agent`.

    It is stored with jobs, and therefore a digest.
    """
    parts = (
        token_of(request),
        address_of(request),
        request.headers.get("User-Agent", ""),
    )
    text = "\n".join(parts).encode(errors="surrogateescape")
    return hashlib.blake2s(text, digest_size=12).hexdigest()
