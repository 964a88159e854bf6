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
    connections = Connections(
        CloudAddresses(base_url, plain_http=plain_http).check_cloud,
        headers={"User-Agent": USER_AGENT},
    )
    await connections.start()
    url = base_url.joinpath("api", "system_stats")
    try:
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with await connections.request("GET", url, timeout=timeout):
            return True
    except CONNECTION_ERRORS:
        return False
    finally:
        await connections.close()
