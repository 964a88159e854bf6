"""From where an IP address can be reached, and which hosts a list of patterns names."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Literal

#: From where an address can be reached; later ones are more local.
Reach = Literal["public", "private", "loopback"]

#: IPv6 addresses that end with an IPv4 address: those of NAT64 (RFC 6052), and the deprecated
#: IPv4-compatible ones (RFC 4291).
_WITH_IPV4 = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
#: Prefixes that count as global although a network uses them as its own: those of its NAT64 (RFC
#: 8215), of IPv4-translated addresses (RFC 2765) and of segment identifiers (RFC 9602).
_LOCAL = (IPv6Network("64:ff9b:1::/48"), IPv6Network("::ffff:0:0:0/96"), IPv6Network("5f00::/16"))


class AddressRefusedError(OSError):
    """Raised instead of connecting to an address. The text says why."""


def reach_of(address: str) -> Reach:
    """Return from where an IP address can be reached. Link-local and multicast addresses count as
    loopback."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and not ip.is_loopback:
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and any(ip in network for network in _WITH_IPV4):
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.is_site_local or any(ip in network for network in _LOCAL):
            return "private"
        ip = ip if inner is None else inner
    if ip.is_loopback or ip.is_unspecified or ip.is_link_local or ip.is_multicast:
        return "loopback"
    return "public" if ip.is_global else "private"


def address_in(host: str) -> str | None:
    """Return the IP address that the host of a URL is, `None` for a name. Resolvers also take short
    forms of IPv4 (`127.1`, `0x7f000001`)."""
    with suppress(ValueError):
        return str(ip_address(host))
    with suppress(OSError):
        return socket.inet_ntoa(socket.inet_aton(host))
    return None


def is_host_of(patterns: Iterable[str], host: str) -> bool:
    """Return whether a host is one of `patterns`, of which `*.example.com` stands for all below
    example.com. All are in lower case."""
    return any(
        host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))
        for pattern in patterns
    )
