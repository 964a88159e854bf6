"""Who the client of a request is.

Reverse proxies say it in headers. Anybody can send these, so that only those of trusted proxies
count.
"""

from __future__ import annotations

import hashlib

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.api.addressing import Caller, Peer, is_trusted, parse_address
from proxy.api.requests import admission_of, connection_of

Headers = CIMultiDict[str] | CIMultiDictProxy[str]


def caller(peer: Peer, headers: Headers, scheme: str = "http") -> Caller:
    """Return the client of a connection from `peer`.

    The right-most address of `X-Forwarded-For` that is not a trusted proxy's; `scheme` and `Host`
    are those of the connection unless the nearest proxy is trusted and says otherwise.
    """
    host = headers.get("Host", "")
    if not peer.proxies:
        return Caller(peer.address, scheme, host)
    forwarded = _last(headers, "X-Forwarded-Proto").lower()
    return Caller(
        _client_address(peer, headers),
        forwarded if forwarded in ("http", "https") else scheme,
        _last(headers, "X-Forwarded-Host") or host,
    )


def _client_address(proxy: Peer, headers: Headers) -> str:
    found = proxy.address
    for hop in reversed(_header_items(headers, "X-Forwarded-For")):
        address = parse_address(hop)
        if address is None:
            break
        found = str(address)
        if not is_trusted(address, proxy.proxies):
            break
    return found


def _header_items(headers: Headers, name: str) -> list[str]:
    items = ",".join(headers.getall(name, ())).split(",")
    return [item.strip() for item in items if item.strip()]


def _last(headers: Headers, name: str) -> str:
    items = _header_items(headers, name)
    return items[-1] if items else ""


def caller_of(request: web.BaseRequest) -> Caller:
    """Return the client of a request."""
    connection = connection_of(request)
    if connection.caller is None:
        connection.caller = caller(connection.peer, request.headers, request.scheme)
    return connection.caller


def submitter_of(request: web.Request) -> str:
    """Return an identifier of the program that sent a request, of its token, address and
    `User-Agent`.

    It is stored with jobs, and therefore a digest.
    """
    parts = (
        admission_of(request).token or "",
        caller_of(request).address,
        request.headers.get("User-Agent", ""),
    )
    text = "\n".join(parts).encode(errors="surrogateescape")
    return hashlib.blake2s(text, digest_size=12).hexdigest()
