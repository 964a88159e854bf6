"""What is asked of a cloud: calls, files of forms, and the routes of an API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from yarl import URL

#: The headers of a JSON body.
JSON = {"Content-Type": "application/json"}

Query = Mapping[str, str | int]

#: The route by which calls of any route are counted that is not listed.
OTHER = "other"


class CloudCall(NamedTuple):
    """What is asked of the cloud; `route` is the template of its path, by which it is counted."""

    method: str
    url: URL
    route: str = OTHER

    def __str__(self) -> str:
        return f"{self.method} {self.url.path}"


class SentFile(NamedTuple):
    """A file of a form: where it is, its field, its name and its type."""

    path: Path
    field: str
    name: str
    content_type: str


class CloudApi(NamedTuple):
    """A kind of API: its `routes` below `/api`, by which calls are counted, each with the method of
    most of its calls; `credential` makes the headers with a key."""

    routes: Mapping[str, str]
    credential: Callable[[str], Mapping[str, str]]


#: The API of Comfy Cloud.
API = CloudApi(
    {
        "prompt": "POST",
        "jobs": "GET",
        "jobs/{id}": "GET",
        "jobs/{id}/cancel": "POST",
        "upload/image": "POST",
        "view": "GET",
        "object_info": "GET",
        "experiment/models": "GET",
        "experiment/models/preview/{path}": "GET",
        "experiment/models/{folder}": "GET",
        "global_subgraphs": "GET",
        "global_subgraphs/{id}": "GET",
        "node_replacements": "GET",
        "user": "GET",
        "system_stats": "GET",
        "features": "GET",
        "billing/status": "GET",
        "billing/balance": "GET",
        "billing/capabilities": "GET",
    },
    lambda key: {"X-API-Key": key},
)
