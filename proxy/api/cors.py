"""What tells browsers that pages of other origins may read our answers.

The headers are those of ComfyUI's `--enable-cors-header`. aiohttp-cors cannot give them: it says
nothing to a request without `Origin`, names methods and headers in answers to preflights alone
(and refuses a preflight of a path that it was not told of with 403 or 405), repeats the origin
where ComfyUI says `*`, and takes no route for any method.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

_HEADERS = {
    "Access-Control-Allow-Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Authorization",
    "Access-Control-Allow-Credentials": "true",
}


def cors_headers(
    cors_origins: Iterable[str],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal for `on_response_prepare`. As in ComfyUI, errors raised by aiohttp and websockets
    go without the headers.
    """
    allowed = frozenset(cors_origins)

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.HTTPException | web.WebSocketResponse):
            return
        origin = request.headers.get("Origin")
        if "*" in allowed:
            response.headers["Access-Control-Allow-Origin"] = "*"
        elif origin in allowed:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers.add("Vary", "Origin")
        else:
            return
        response.headers.update(_HEADERS)

    return add
