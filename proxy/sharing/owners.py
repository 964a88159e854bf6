"""Owners: whom connections, memory, time and other shared things are counted for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Bits of the network of one IPv6 client: a provider gives a customer at least a /64.
IPV6_PREFIX = 64


class Owner(NamedTuple):
    """A member, or a stranger: an address on which nobody is signed in.

    An empty `address` is that of strangers behind a trusted proxy, who cannot be told apart.
    """

    member: str = ""
    address: str = ""


#: Work of the proxy itself, such as running jobs. No member has this name.
ENGINE = Owner("the engine")

#: For whom the current task, and those that it starts, use what is shared.
_acting: ContextVar[Owner] = ContextVar("acting", default=ENGINE)


def acting_owner() -> Owner:
    """Return the owner that the current task works for, which is that of its request."""
    return _acting.get()


def act_for(owner: Owner) -> None:
    """Let the current task, and those that it starts from now on, work for an owner."""
    _acting.set(owner)


@contextmanager
def acting_for(owner: Owner) -> Iterator[None]:
    """Let the block, and the tasks that it starts, work for an owner."""
    before = _acting.set(owner)
    try:
        yield
    finally:
        _acting.reset(before)


@lru_cache(maxsize=4096)
def member_owner(name: str) -> Owner:
    """Return a member as an owner, the same object for all its connections."""
    return Owner(name)


@lru_cache(maxsize=4096)
def stranger(address: str) -> Owner:
    """Return a client that is not signed in as an owner, by its address; the same object for all
    its connections."""
    return Owner(address=network_of(address))


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """Return the address in a text, which may have a port; an IPv4-mapped one becomes IPv4."""
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
def network_of(address: str) -> str:
    """Return an IPv4 address as it is, and the /64 of an IPv6 address, which is one client's.

    An IPv4-mapped address is the IPv4 one. Any other text is returned as it is.
    """
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False))
    return address if parsed is None else str(parsed)
