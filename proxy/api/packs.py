"""The routes of node packs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, cast

from aiohttp import web

from proxy.api import bodies, request_bodies
from proxy.api.answer_headers import prepare
from proxy.api.content import content_headers
from proxy.api.holding import PIECE, in_turn
from proxy.api.keys import ACCOUNTING, JOBS, PACKS
from proxy.api.middleware import record_action
from proxy.api.requests import member_of, token_of
from proxy.packs.pack import PackRoute
from proxy.translate import codec
from proxy.translate.errors import PlainError


class RequestCall:
    """A request for the handlers of packs, which implements `PackCall`."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self.member = member_of(request)
        self.path: Mapping[str, str] = request.match_info
        self.query: Mapping[str, str] = request.query
        stated = request.headers.get("Content-Type", "")
        self.content_type = stated.partition(";")[0].strip()

    def integer(self, name: str, default: int) -> int:
        """Return an integer of the query. Raises `PlainError` in Python's words, as packs do."""

        def refuse(text: str) -> PlainError:
            return PlainError(f"invalid literal for int() with base 10: {text!r}")

        value = request_bodies.query_integer(self.query, name, refuse)
        return default if value is None else value

    async def read_json(self) -> Any:
        """Return the body. Raises `LocalError`."""
        return await request_bodies.read_json(self._request)

    async def read_object(self) -> dict[str, Any]:
        """Return the body, which must be a JSON object. Raises `LocalError`."""
        return await request_bodies.read_object(self._request)

    def parse(self, data: bytes) -> Any:
        """Return the value of JSON. Raises `LocalError`."""
        return request_bodies.parse(data)

    @asynccontextmanager
    async def upload(self) -> AsyncIterator[bytes]:
        """Yield the body as an upload of the member, which is counted unless the block raises."""
        request, accounting = self._request, self._request.app[ACCOUNTING]
        if "Expect" in request.headers and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        room = await accounting.limiter.upload_room(self.member)
        limit = request.client_max_size
        try:
            data = await request_bodies.read(request, limit if room is None else min(limit, room))
        except web.HTTPRequestEntityTooLarge:
            if room is not None and room < limit:
                raise accounting.limiter.upload_refusal(self.member) from None
            raise PlainError(
                f"The picture has more than {limit} bytes, which is the maximum.",
                kind="too_large",
            ) from None
        async with accounting.uploading(self.member, len(data), token_of(request)):
            yield data

    async def cancel(self, prompt_id: str) -> None:
        """Cancel a job of the member, and note that in the audit record."""
        if await self._request.app[JOBS].cancel(self.member, prompt_id):
            record_action(self._request, "cancel", job=prompt_id)

    def json(self, value: object, status: int = 200) -> web.Response:
        """Return an answer with JSON."""
        return bodies.json(value, status)

    async def computed(self, work: Callable[[], object]) -> web.Response:
        """Return an answer with the result of work, which is done in a turn of the member."""
        return bodies.ready(await in_turn(self._request, lambda: codec.dump_bytes(work())))

    def text(self, text: str, status: int = 200) -> web.Response:
        """Return an answer with text."""
        return bodies.text(text, status)

    async def send(self, data: bytes, content_type: str) -> web.StreamResponse:
        """Send content with the headers that keep a browser from running it."""
        request = self._request
        headers = content_headers(content_type, request.headers.get("Sec-Fetch-Dest"))
        response = web.StreamResponse(headers=headers)
        response.content_length = len(data)
        await prepare(request, response)
        if request.method != "HEAD":
            for start in range(0, len(data), PIECE):
                await response.write(data[start : start + PIECE])
            request.app[ACCOUNTING].served(self.member, len(data), token_of(request))
        return response


async def expect(_: web.Request) -> None:
    """Leave `Expect: 100-continue` to the handler, which may need no body."""


def handler_of(route: PackRoute) -> bodies.Handler:
    """Return the handler of a pack's route for the server."""

    @wraps(route.handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        services = request.app[PACKS]
        return cast(web.StreamResponse, await route.handler(RequestCall(request), services))

    return bodies.in_form(PlainError.of)(handle) if route.plain_errors else handle
