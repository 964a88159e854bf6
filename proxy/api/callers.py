"""Who the client of a request is.

Reverse proxies say it in headers. Anybody can send these, so that only those of trusted proxies
count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.api.addressing import Address, Caller, Network, is_trusted, parse_address
from proxy.api.requests import admission_of, connection_of

Headers = CIMultiDict[str] | CIMultiDictProxy[str]


def caller(
    peer: str, headers: Headers, trusted: Sequence[Network], *, scheme: str = "http"
) -> Caller:
    """Return the client of a connection from `peer`.

    The right-most address of `X-Forwarded-For` that is not a trusted proxy's; `scheme` and `Host`
    are those of the connection unless the nearest proxy is trusted and says otherwise.
    """
    host = headers.get("Host", "")
    address = parse_address(peer)
    if address is None or not is_trusted(address, trusted):
        return Caller(_canonical_address(peer), scheme, host)
    forwarded = _last(headers, "X-Forwarded-Proto").lower()
    return Caller(
        str(_client_address(address, headers, trusted)),
        forwarded if forwarded in ("http", "https") else scheme,
        _last(headers, "X-Forwarded-Host") or host,
    )


def _client_address(address: Address, headers: Headers, trusted: Sequence[Network]) -> Address:
    hops = _header_items(headers, "X-Forwarded-For")
    while hops and is_trusted(address, trusted):
        hop = parse_address(hops.pop())
        if hop is None:
            break
        address = hop
    return address


@lru_cache(maxsize=4096)
def _canonical_address(peer: str) -> str:
    """Return the canonical form of an address."""
    return str(parse_address(peer) or peer)


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
        connection.caller = caller(
            connection.peer,
            request.headers,
            connection.services.options.trusted_proxies,
            scheme=request.scheme,
        )
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
