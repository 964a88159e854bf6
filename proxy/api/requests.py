"""What a handler asks of its request: its connection, its member, the services and its client.

Reverse proxies say in headers who the client is. Anybody can send these, so that only those of
trusted proxies count.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

from proxy.edge.addressing import Headers, RequestPrefix, header_items
from proxy.edge.connections import Admission, Connection

if TYPE_CHECKING:
    from proxy.api.keys import Services


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection on which a request came."""
    protocol: Any = request.protocol
    connection: Connection = protocol
    return connection


def prefix_of(request: web.BaseRequest) -> RequestPrefix:
    """Return the prefix and tokens of the path of a request."""
    return connection_of(request).prefix


def admission_of(request: web.BaseRequest) -> Admission:
    """Return the authenticated member of a request."""
    admission = connection_of(request).admission
    if admission is None:
        raise RuntimeError("the request was not authenticated")
    return admission


def token_of(request: web.BaseRequest) -> str:
    """Return the id of the token that a request was authenticated with, an empty text for none."""
    return admission_of(request).token or ""


def services_of(request: web.BaseRequest) -> Services:
    """Return the services of the listener that got a request, before its route is resolved too."""
    services: Services = connection_of(request).context.services
    return services


def member_of(request: web.BaseRequest) -> str:
    """Return the member who sent a request."""
    return admission_of(request).member


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
