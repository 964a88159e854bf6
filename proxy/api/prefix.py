"""What stands before the path of a route: the base path of the setting, and `/t/TOKEN`.

Both are taken off before aiohttp looks for a route and before anything is logged, here and nowhere
else. A token in the query goes too when there are members.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from yarl import URL

if TYPE_CHECKING:
    from proxy.api.connections import Connection

_TOKEN_SEGMENT = "/t/"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Way:
    """How a request came.

    `base` is the setting, which links and redirects have to begin with. `bare` is a prefix without
    the slash behind it, `crooked` a path below a prefix that leads out of it.
    """

    base: str = ""
    path_token: str | None = None
    query_tokens: tuple[str, ...] = ()
    bare: bool = False
    crooked: bool = False


WAY = web.RequestKey("way", Way)


def way_of(request: web.Request) -> Way:
    """How the request came."""
    return request.get(WAY) or Way()


def strip(url: URL, base: str, *, members: bool) -> tuple[URL, Way]:
    """The address of the route, and what stood before it. `base` is `""` or like `/comfy`.

    A path that is not below `base` is left: a reverse proxy may have taken it off. Only the plain
    spelling `/t/` counts. Without `members` tokens are left where they are.
    """
    path, token, bare = url.raw_path, None, False
    if base and (path == base or path.startswith(f"{base}/")):
        path = path[len(base) :]
        bare = not path
    if members and path.startswith(_TOKEN_SEGMENT):
        token, slash, rest = path[len(_TOKEN_SEGMENT) :].partition("/")
        path, bare = f"/{rest}", not slash
    stripped = path != url.raw_path
    crooked = stripped and (path.startswith("//") or any(map(_is_dots, path.split("/"))))
    if stripped:
        url = url.with_path(path or "/", encoded=True, keep_query=True)
    found: tuple[str, ...] = ()
    if members and "token" in url.query:
        found = tuple(url.query.getall("token"))
        url = url.without_query_params("token")
    return url, Way(base, token, found, bare, crooked)


def _is_dots(segment: str) -> bool:
    return segment.lower().replace("%2e", ".") in (".", "..")


def stripping(
    make: Callable[..., web.BaseRequest], base: str, has_members: Callable[[], bool]
) -> Callable[..., web.BaseRequest]:
    """The request factory `make` of a `web.Server`, for requests that have a `Way`."""

    def make_stripped(
        message: RawRequestMessage,
        payload: Any,
        protocol: Connection,
        writer: Any,
        task: asyncio.Task[Any],
    ) -> web.BaseRequest:
        url, way = strip(message.url, base, members=has_members())
        if url is not message.url:
            message = message._replace(url=url, path=str(url))
        protocol.begin(payload)
        request = make(message, payload, protocol, writer, task)
        cast("web.Request", request)[WAY] = way
        return request

    return make_stripped
