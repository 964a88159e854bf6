"""The private parts of aiohttp that are used, because there is no public way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from aiohttp import web

#: Why reading is paused: aiohttp has enough, the turns of the owner, the answer to come.
BY_AIOHTTP, BY_TURNS, BY_ANSWER = 1, 2, 4


class PausedReading(web.RequestHandler):
    """aiohttp's protocol, whose reading is paused for several reasons.

    aiohttp pauses and resumes its transport in several places, all by these two methods, and would
    resume what is paused for another reason.
    """

    __slots__ = ("paused_by",)

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self.paused_by = 0

    def _pause_transport_reading(self) -> None:
        self.pause(BY_AIOHTTP)

    def _resume_transport_reading(self) -> None:
        self.resume(BY_AIOHTTP)

    def pause(self, reason: int) -> None:
        """Read no more until `resume` with the same reason."""
        self.paused_by |= reason
        super()._pause_transport_reading()

    def resume(self, reason: int) -> None:
        """Read again, unless reading is paused for another reason."""
        was_paused, self.paused_by = self.paused_by, self.paused_by & ~reason
        if was_paused and not self.paused_by:
            super()._resume_transport_reading()


def intercept(server: web.Server, begin: Callable[..., Any], handle: Callable[..., Any]) -> None:
    """Let `begin` make the requests of a server, and `handle` answer them.

    `begin` gets the function that made them before, and its arguments: the headers that aiohttp has
    parsed and the body to come. An application resolves routes before anything else can run, and
    does not tell when the headers of a request are complete.
    """
    server.request_factory = partial(begin, server.request_factory)
    server.request_handler = handle


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
