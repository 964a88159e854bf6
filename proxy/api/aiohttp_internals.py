"""What of aiohttp's inner parts is used, because there is no public way."""

from __future__ import annotations

from aiohttp import web


def has_waiting_request(protocol: web.RequestHandler) -> bool:
    """Return whether headers have come whole of a request that no handler has begun.

    Without it a connection could not tell unfinished headers, which have a timeout and a budget,
    from a request that waits for the answer to another. aiohttp has nothing between its parser and
    the task that takes what was parsed.
    """
    return bool(protocol._messages)


def has_route(request: web.Request) -> bool:
    """Return whether the route of a request was looked for; `match_info` fails otherwise."""
    return request._match_info is not None


def set_route(request: web.Request, match_info: web.UrlMappingMatchInfo) -> None:
    """Set the route that was found for a request.

    aiohttp-cors puts its headers on an answer by its route. Refusals before aiohttp's own look-up
    need them, too, and aiohttp's look-up comes after `100 Continue`, which is only for clients
    that are let in.
    """
    request._match_info = match_info
