"""Whether the cloud answers at all, whatever it answers."""

from __future__ import annotations

import aiohttp
from yarl import URL

from proxy.cloud.connections import (
    CONNECTION_ERRORS,
    USER_AGENT,
    CloudAddresses,
    Connections,
)


async def is_reachable(base_url: URL, seconds: float, *, plain_http: bool) -> bool:
    """Return whether the cloud answers within so many seconds, on a new connection.

    The route is public: the request carries no key, and any status is an answer.
    """
    check = CloudAddresses(base_url, plain_http=plain_http).check_cloud
    url, timeout = base_url.joinpath("api", "system_stats"), aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            Connections(check, headers={"User-Agent": USER_AGENT}) as connections,
            await connections.request("GET", url, timeout=timeout),
        ):
            return True
    except CONNECTION_ERRORS:
        return False
