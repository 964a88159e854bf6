"""Which browser pages may speak to a server on the loopback interface.

As in ComfyUI: a page of another site is refused when the browser says so (`Sec-Fetch-Site`), or
when `Host` is a loopback name and `Origin` names another host or port.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import SplitResult, urlsplit

_LOOKUP_SECONDS = 1.0
_REMEMBERED = 256


def differs(host: str, origin: str) -> bool:
    """Whether `Origin` names another place than `Host`; ports count if both name one.

    An `Origin` without a host (`null`, `file://`, garbage) is none.
    """
    try:
        there = urlsplit(origin.lower())
        if not there.netloc:
            return False
        here = urlsplit("//" + host.lower())
        if _name(there) != _name(here):
            return True
        return None not in (there.port, here.port) and there.port != here.port
    except ValueError:
        return True


def _name(address: SplitResult) -> str:
    """The part before the port, with a user where one is named, so that it never matches."""
    user, at, _ = address.netloc.rpartition("@")
    return f"{user}{at}{address.hostname or ''}"


def _is_loopback_literal(name: str) -> bool | None:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return None


class OriginCheck:
    """The check, with a small memory of which names are loopback ones.

    Pages of the `allowed` origins pass it; `*` lets all pages pass.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = frozenset(allowed)
        self._loopback: dict[str, bool] = {}

    async def refuses(self, headers: Mapping[str, str], *, host: str | None = None) -> bool:
        """Whether the request is to be answered with 403.

        `host` is what the client called us, where that is not `Host`.
        """
        origin = headers.get("Origin")
        if self._allowed and ("*" in self._allowed or origin in self._allowed):
            return False
        if headers.get("Sec-Fetch-Site") == "cross-site":
            return True
        if not origin:
            return False
        host = headers.get("Host", "") if host is None else host
        return differs(host, origin) and await self._is_loopback(host)

    async def _is_loopback(self, host: str) -> bool:
        try:
            name = urlsplit("//" + host).hostname or ""
        except ValueError:
            return True
        literal = _is_loopback_literal(name)
        if literal is not None:
            return literal
        known = self._loopback.get(name)
        if known is None:
            if len(self._loopback) >= _REMEMBERED:
                self._loopback.clear()
            known = self._loopback[name] = await _resolves_to_loopback(name)
        return known


async def _resolves_to_loopback(name: str) -> bool:
    try:
        async with asyncio.timeout(_LOOKUP_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(name, None)
    except (OSError, UnicodeError, TimeoutError):
        return False
    return bool(found) and all(
        ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found
    )
