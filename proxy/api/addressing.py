"""How a request came: what stands before the path of its route, and who sent it.

Before the path stand the base path of the setting and `/t/TOKEN`. Both are taken off before
aiohttp looks for a route and before anything is logged, here and nowhere else. A token in the query
goes too when there are members.

Reverse proxies say in headers who a client is. Anybody can send these, so that only those of
trusted proxies count.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.members.directory import Directory

if TYPE_CHECKING:
    from proxy.api.connections import Connection

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Headers = CIMultiDict[str] | CIMultiDictProxy[str]

_TOKEN_SEGMENT = "/t/"  # noqa: S105


class Way(NamedTuple):
    """How a request came.

    `base` is the setting, which links and redirects have to begin with. `bare` is a prefix without
    the slash behind it, `crooked` a path below a prefix that leads out of it.
    """

    base: str = ""
    path_token: str | None = None
    query_tokens: tuple[str, ...] = ()
    bare: bool = False
    crooked: bool = False


#: The way of nearly all requests.
STRAIGHT = Way()


def strip(url: URL, base: str, *, members: bool) -> tuple[URL, Way]:
    """The address of the route, and what stood before it. `base` is `""` or like `/comfy`.

    A path that is not below `base` is left: a reverse proxy may have taken it off. Only the plain
    spelling `/t/` counts. Without `members` tokens are left where they are.
    """
    path, token, bare = url.raw_path, None, False
    if base and (path == base or path.startswith(f"{base}/")):
        path = path[len(base) :]
        bare = not path
    if members and path.startswith(_TOKEN_SEGMENT):
        token, slash, rest = path[len(_TOKEN_SEGMENT) :].partition("/")
        path, bare = f"/{rest}", not slash
    stripped = path != url.raw_path
    crooked = stripped and (path.startswith("//") or any(map(_is_dots, path.split("/"))))
    if stripped:
        url = url.with_path(path or "/", encoded=True, keep_query=True)
    found: tuple[str, ...] = ()
    if members and "token" in url.query:
        found = tuple(url.query.getall("token"))
        url = url.without_query_params("token")
    return url, Way(base, token, found, bare, crooked)


def _is_dots(segment: str) -> bool:
    return segment.lower().replace("%2e", ".") in (".", "..")


def stripping(
    make: Callable[..., web.BaseRequest], base: str, members: Directory
) -> Callable[..., web.BaseRequest]:
    """The request factory `make` of a `web.Server`, which begins a request of a connection."""
    straight = Way(base)

    def make_stripped(
        message: RawRequestMessage,
        payload: Any,
        protocol: Connection,
        writer: Any,
        task: asyncio.Task[Any],
    ) -> web.BaseRequest:
        path = message.path
        gated = members.has_members
        if base or (gated and _may_have_token(path)):
            url, way = strip(message.url, base, members=gated)
            if url is not message.url:
                message = message._replace(url=url, path=str(url))
            protocol.begin(payload, way)
        else:
            protocol.begin(payload, straight)
        return make(message, payload, protocol, writer, task)

    return make_stripped


def _may_have_token(target: str) -> bool:
    """Whether a request's target has to be looked at more closely; so it is an absolute URL."""
    return (
        target.startswith(_TOKEN_SEGMENT)
        or "token" in target
        or "%" in target
        or not target.startswith("/")
    )


class Caller(NamedTuple):
    """The client: its address, and with which scheme and host it called us."""

    address: str
    scheme: str
    host: str


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
