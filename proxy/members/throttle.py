"""How many wrong tokens come from one address, and when it is too many."""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Callable

from proxy.members.limiter import Bucket

#: So many wrong tokens a minute are answered as such.
PER_MINUTE = 10
#: So many addresses are remembered; the one that was heard of longest ago is forgotten first.
REMEMBERED = 10_000


class Throttle:
    """Wrong tokens by address; of IPv6 a whole /64 counts as one. `now` is in seconds."""

    def __init__(self, now: Callable[[], float], *, per_minute: int = PER_MINUTE) -> None:
        self._now = now
        self._per_minute = per_minute
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def failed(self, address: str) -> int:
        """Count a wrong token. Returns 0, or the seconds until the next may be tried."""
        key = _network(address)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = Bucket(self._per_minute / 60, self._per_minute)
        self._buckets[key] = bucket
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        return math.ceil(bucket.take(self._now()))


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
