"""The routes by which calls of an account are counted."""

from __future__ import annotations

import re

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
