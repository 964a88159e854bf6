"""The private parts of aiohttp that are used, because there is no public way."""

from __future__ import annotations

from aiohttp import web


def has_waiting_request(protocol: web.RequestHandler) -> bool:
    """Return whether the headers of a request are complete that no handler has begun.

    A connection needs this to distinguish unfinished headers, which have a timeout and a budget,
    from a request that waits for the answer to another one.
    """
    return bool(protocol._messages)


def has_route(request: web.Request) -> bool:
    """Return whether the route of a request has been resolved; `match_info` fails otherwise."""
    return request._match_info is not None


def set_route(request: web.Request, match_info: web.UrlMappingMatchInfo) -> None:
    """Set the resolved route of a request.

    aiohttp-cors adds headers to an answer depending on its route. Errors before aiohttp's own
    resolution need them too, and that comes after `100 Continue`, which is only for authenticated
    clients.
    """
    request._match_info = match_info
