"""Who a client is when reverse proxies stand before us, which say so in headers.

Anybody can send these headers, so that only those of trusted proxies count.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Headers = CIMultiDict[str] | CIMultiDictProxy[str]


@dataclass(frozen=True, slots=True)
class Caller:
    """The client: its address, and with which scheme and host it called us."""

    address: str
    scheme: str
    host: str


CALLER = web.RequestKey("caller", Caller)


def caller(
    peer: str, headers: Headers, trusted: Sequence[Network], *, scheme: str = "http"
) -> Caller:
    """Who is behind the connection from `peer`.

    The right-most address of `X-Forwarded-For` that is not a trusted proxy's; `scheme` and `Host`
    are those of the connection unless the nearest proxy is trusted and says otherwise.
    """
    host = headers.get("Host", "")
    address = parse_address(peer)
    if address is None or not _is_trusted(address, trusted):
        return Caller(_shown(peer), scheme, host)
    said = _last(headers, "X-Forwarded-Proto").lower()
    return Caller(
        str(_behind(address, headers, trusted)),
        said if said in ("http", "https") else scheme,
        _last(headers, "X-Forwarded-Host") or host,
    )


def _behind(address: Address, headers: Headers, trusted: Sequence[Network]) -> Address:
    hops = _items(headers, "X-Forwarded-For")
    while hops and _is_trusted(address, trusted):
        hop = parse_address(hops.pop())
        if hop is None:
            break
        address = hop
    return address


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """The address, perhaps with a port; an IPv4 address in IPv6's clothes is an IPv4 address."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=4096)
def _shown(peer: str) -> str:
    """The one spelling of an address, by which it is counted."""
    return str(parse_address(peer) or peer)


def _is_trusted(address: Address, trusted: Sequence[Network]) -> bool:
    return any(address in network for network in trusted)


def _items(headers: Headers, name: str) -> list[str]:
    items = ",".join(headers.getall(name, ())).split(",")
    return [item.strip() for item in items if item.strip()]


def _last(headers: Headers, name: str) -> str:
    items = _items(headers, name)
    return items[-1] if items else ""


def caller_of(request: web.Request) -> Caller:
    """Who sent the request; the middleware has found it out."""
    known = request.get(CALLER)
    return known or Caller(request.remote or "", request.scheme, request.headers.get("Host", ""))


def identify(request: web.Request, trusted: Sequence[Network]) -> Caller:
    """Find out who sent the request, for `caller_of`."""
    known = caller(request.remote or "", request.headers, trusted, scheme=request.scheme)
    request[CALLER] = known
    return known
