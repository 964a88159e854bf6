"""Which addresses are connected to, and by way of which HTTP proxy."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Literal
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

#: Seconds for a TCP and TLS connection to come about.
CONNECT_TIMEOUT = 10.0

#: From where an address can be reached; what is further down the list is the more local.
Reach = Literal["public", "private", "loopback"]
_REACHES: tuple[Reach, ...] = ("public", "private", "loopback")

#: IPv4 addresses as NAT64 writes them (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")

#: Of this many hosts it is remembered which proxy leads to them; to find out takes 0.1 ms.
_PLACES = 64

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class AddressRefusedError(OSError):
    """An address that is not connected to; the text says why."""


def reach_of(address: str) -> Reach:
    """How local an IP address is. What routers must not pass on counts as loopback."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = ip if inner is None else inner
    if ip.is_loopback or ip.is_unspecified or ip.is_link_local or ip.is_multicast:
        return "loopback"
    return "public" if ip.is_global else "private"


class Connections:
    """Sessions with one kind of peer: direct ones, and through the environment's HTTP proxy.

    `check` is given each IP address right before it is connected to, whatever name it was found
    by, and raises `AddressRefusedError`. Behind a proxy only an address in the URL itself is
    checked: names are looked up by the proxy.
    """

    def __init__(self, check: Callable[[str], None], **options: Any) -> None:
        self._check = check
        self._options = options
        self._proxies: dict[tuple[str, str], URL | None] = {}
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the sessions; connections come when they are needed."""
        checked = aiohttp.TCPConnector(socket_factory=self._socket)
        self._direct = _bare_session(connector=checked, **self._options)
        self._proxied = _bare_session(**self._options)

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()
        self._direct = self._proxied = None

    def choose(self, url: URL) -> tuple[aiohttp.ClientSession, URL | None]:
        """The session for a URL, and the proxy on the way. Raises `AddressRefusedError`."""
        if self._direct is None or self._proxied is None:
            raise RuntimeError("the cloud client is not started")
        place = (url.scheme, url.host or "")
        if place not in self._proxies:
            if len(self._proxies) >= _PLACES:
                self._proxies.clear()
            self._proxies[place] = outward_proxy(url)
        proxy = self._proxies[place]
        if proxy is None:
            return self._direct, None
        with suppress(ValueError):
            self._check(str(ip_address(url.host or "")))
        return self._proxied, proxy

    def _socket(self, about: Any) -> socket.socket:
        family, type_, proto, _, address = about
        self._check(str(address[0]))
        return socket.socket(family=family, type=type_, proto=proto)


class CloudAddresses:
    """Which addresses the cloud may have, and whereto it may send downloads.

    Over plain http the key goes to loopback and private addresses alone, unless `plain_http`.
    `reach` is the cloud's own, the widest that was seen: a cloud of the public network must not
    send us into our own one.
    """

    def __init__(self, base_url: URL, *, plain_http: bool) -> None:
        self._refuses_public = base_url.scheme == "http" and not plain_http
        self.reach: Reach | None = None

    def check_cloud(self, address: str) -> None:
        """Raise `AddressRefusedError` if the key is not to be sent there."""
        reach = reach_of(address)
        if self._refuses_public and reach == "public":
            raise AddressRefusedError(
                "the API key is not sent to a public address over plain http: use https in "
                "base_url, or set allow_plain_http"
            )
        self.reach = min(reach, self.reach or reach, key=_REACHES.index)

    def check_storage(self, address: str) -> None:
        """Raise `AddressRefusedError` for an address that is more local than the cloud's."""
        if _REACHES.index(reach_of(address)) > _REACHES.index(self.reach or "public"):
            raise AddressRefusedError("a redirect into the network of the proxy")


def refused_address(error: Exception) -> AddressRefusedError | None:
    """The refusal of an address that a failed connection came from, if it did."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    return error if isinstance(error, AddressRefusedError) else None


def _bare_session(**options: Any) -> aiohttp.ClientSession:
    """A session that carries nothing of its own.

    No cookies; no `trust_env`, with which aiohttp would send what stands in ~/.netrc.
    """
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=True, **options
    )


def outward_proxy(url: URL) -> URL | None:
    """What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say for `url`; never for this machine.

    aiohttp reads these with `trust_env` only, which sends the passwords of ~/.netrc as well. It
    speaks to HTTP proxies alone: another kind is passed by.
    """
    host = url.host or ""
    if host in _LOOPBACK or proxy_bypass(host):
        return None
    scheme = "https" if url.scheme in ("https", "wss") else "http"
    named = getproxies().get(scheme)
    if not named:
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    return proxy if proxy.scheme in ("http", "https") else None
