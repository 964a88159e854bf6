"""What the calls of an account came to, counted by route."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from proxy.counting import Histogram

#: The routes of the cloud that are called, below `/api`; `{path}` is any number of segments.
ROUTES = (
    "prompt",
    "jobs",
    "jobs/{id}",
    "jobs/{id}/cancel",
    "upload/image",
    "view",
    "object_info",
    "experiment/models",
    "experiment/models/preview/{path}",
    "experiment/models/{folder}",
    "userdata",
    "userdata/{file}",
    "userdata/{file}/move/{dest}",
    "settings",
    "settings/{id}",
    "user",
    "system_stats",
)

#: The status of a call that was not answered.
NONE = "none"


class Calls:
    """Counts calls, and the bytes of files, since the start.

    `counts` is by method, route and status (`none`: no answer came), `seconds` is the time to the
    answer's headers by method and route. `uploaded` and `downloaded` are bytes.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.seconds: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)
        self.uploaded = 0
        self.downloaded = 0

    def note(self, method: str, route: str, status: int | None, seconds: float) -> None:
        """Count a call; `status` is `None` if it was not answered."""
        self.counts[method, route, NONE if status is None else str(status)] += 1
        self.seconds[method, route].observe(seconds)


def route_of(path: str) -> str:
    """The route of a raw path below the cloud's address, without any name or id in it."""
    for template, pattern in _PATTERNS:
        if pattern.fullmatch(path):
            return template
    return "other"


def _pattern(template: str) -> re.Pattern[str]:
    some = {"{path}": ".+"}
    parts = (some.get(part, "[^/]+" if "{" in part else part) for part in template.split("/"))
    return re.compile("/api/" + "/".join(parts))


_PATTERNS = [(f"/api/{template}", _pattern(template)) for template in ROUTES]
