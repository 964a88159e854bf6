"""Owners: whom connections, memory, time and other shared things are counted for."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import NamedTuple

#: Bits of the network of one IPv6 client: a provider gives a customer at least a /64.
IPV6_PREFIX = 64


class Owner(NamedTuple):
    """A member, or a stranger: an address on which nobody is signed in.

    An empty `address` is that of strangers behind a trusted proxy, who cannot be told apart.
    """

    member: str = ""
    address: str = ""


@lru_cache(maxsize=4096)
def member_owner(name: str) -> Owner:
    """Return the owner of what is a member's, the same object for all connections of one."""
    return Owner(name)


@lru_cache(maxsize=4096)
def stranger(address: str) -> Owner:
    """Return the owner of what nobody is signed in for, by the address of the client; the same
    object for all of its connections."""
    return Owner(address=network_of(address))


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 of an IPv6 address, which is one client's.

    An IPv4-mapped address is the IPv4 one. Any other text is returned as it is.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
