"""Prefixes of paths, and addresses of clients.

The setting `base_path` and `/t/TOKEN` are prefixes of the path. Only this module removes them,
before aiohttp resolves the route and before anything is logged. With members, tokens in the query
are removed too.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.sharing.owners import Address, parse_address
from proxy.translate.errors import LocalError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Headers = CIMultiDict[str] | CIMultiDictProxy[str]

#: What a standby sends to the leader: that it is one, whether its client is on its machine, the id
#: of a submission, whether it was sent to a leader before, and for how many seconds a websocket
#: has been open.
STANDBY, ON_LOOPBACK = "Comfy-Proxy-Standby", "Comfy-Proxy-On-Loopback"
PROMPT_ID, AGAIN = "Comfy-Proxy-Prompt-Id", "Comfy-Proxy-Again"
SOCKET_AGE = "Comfy-Proxy-Socket-Age"
#: The headers in which a reverse proxy says who its client is, in lower case.
FORWARDING = frozenset(
    {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"}
)

_TOKEN_SEGMENT = "/t/"  # noqa: S105


class RequestPrefix(NamedTuple):
    """The prefix and tokens of a request. `bare` is a prefix without a final slash, `escapes` is a
    path that leads out of its prefix. A request with a `refusal` is not looked at."""

    path_token: str | None = None
    query_tokens: tuple[str, ...] = ()
    bare: bool = False
    escapes: bool = False
    refusal: LocalError | None = None


#: The prefix of a request without prefix and tokens.
NO_PREFIX = RequestPrefix()
#: Maximum bytes of a request line, and segments and parameters of its target, which all fit into a
#: target with as many bytes.
MAX_LINE, MAX_SEGMENTS, MAX_PARAMETERS = 8190, 64, 64
#: What is known of a request with too many of them.
EXCESSIVE_TARGET = RequestPrefix(
    refusal=LocalError(
        "target_too_large",
        f"The path of this request has more than {MAX_SEGMENTS} segments, or its query more than "
        f"{MAX_PARAMETERS} parameters; send fewer.",
    )
)


def is_excessive(target: str) -> bool:
    """Return whether the target of a request has too many segments or parameters."""
    return target.count("/") > MAX_SEGMENTS or target.count("&") >= MAX_PARAMETERS


class Peer(NamedTuple):
    """The other end of a connection. `proxies` are the networks of all trusted proxies if the peer
    is one of them, whose forwarding headers are believed; none for any other peer."""

    address: str
    proxies: tuple[Network, ...] = ()


def strip(url: URL, base: str, *, members: bool) -> tuple[URL, RequestPrefix]:
    """Return the URL without prefixes, and what was removed. `base` is `""` or like `/comfy`.

    A path that is not below `base` is unchanged: a reverse proxy may have removed it. Only the
    plain spelling `/t/` counts. Without `members` tokens are not removed.
    """
    path, token, bare = url.raw_path, None, False
    if base and (path == base or path.startswith(f"{base}/")):
        path = path[len(base) :]
        bare = not path
    if members and path.startswith(_TOKEN_SEGMENT):
        token, slash, rest = path[len(_TOKEN_SEGMENT) :].partition("/")
        path, bare = f"/{rest}", not slash
    stripped = path != url.raw_path
    escapes = stripped and (path.startswith("//") or any(map(_is_dots, path.split("/"))))
    if stripped:
        url = url.with_path(path or "/", encoded=True, keep_query=True)
    found: tuple[str, ...] = ()
    if members and "token" in url.query:
        found = tuple(url.query.getall("token"))
        url = url.without_query_params("token")
    return url, RequestPrefix(token, found, bare, escapes)


def _is_dots(segment: str) -> bool:
    return segment.lower().replace("%2e", ".") in (".", "..")


def may_have_token(target: str) -> bool:
    """Return whether the target of a request may contain a token; absolute URLs count as such."""
    return (
        target.startswith(_TOKEN_SEGMENT)
        or "token" in target
        or "%" in target
        or not target.startswith("/")
    )


@lru_cache(maxsize=4096)
def peer_of(name: str, trusted: tuple[Network, ...]) -> Peer:
    """Return the peer of a connection from an address, which gets its canonical form; the same
    object for all of its connections."""
    address = parse_address(name)
    if address is None:
        return Peer(name)
    return Peer(str(address), trusted if is_trusted(address, trusted) else ())


def client_of(peer: Peer, headers: Headers) -> str:
    """Return the address of the client of a request.

    Of a trusted proxy that is the right-most one of `X-Forwarded-For` that is not a trusted
    proxy's.
    """
    found = peer.address
    if not peer.proxies:
        return found
    for hop in reversed(header_items(headers, "X-Forwarded-For")):
        address = parse_address(hop)
        if address is None:
            break
        found = str(address)
        if not is_trusted(address, peer.proxies):
            break
    return found


def standby_at(peer: Peer) -> Peer:
    """Return the peer of a connection of a standby, which says who its clients are as a trusted
    proxy does."""
    address = parse_address(peer.address)
    return peer if address is None else Peer(peer.address, (ipaddress.ip_network(address),))


def header_items(headers: Headers, name: str) -> list[str]:
    """Return the items of a header that is a list, of all its lines together."""
    if not headers:  # aiohttp gives a plain dictionary to what it could not parse
        return []
    items = ",".join(headers.getall(name, ())).split(",")
    return [item.strip() for item in items if item.strip()]


def is_trusted(address: Address, trusted: tuple[Network, ...]) -> bool:
    """Return whether an address is that of a reverse proxy that is trusted."""
    return any(address in network for network in trusted)


def is_loopback_address(name: object) -> bool:
    """Return whether the name of a socket is an address of the loopback interface."""
    address = parse_address(str(name[0])) if isinstance(name, tuple) else None
    return address is not None and address.is_loopback
