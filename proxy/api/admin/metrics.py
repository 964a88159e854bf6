"""`/metrics`: what the proxy counts, for Prometheus."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.api import answers
from proxy.api.admin.asking import is_admin
from proxy.api.services import member_of, of

PATH = "/metrics"


async def get_metrics(request: web.Request) -> web.Response:
    """Everything for admins; a member's own series for that member."""
    return await _page(request, None if is_admin(request) else member_of(request))


def open_metrics() -> Middleware:
    """The middleware of the admin listener: who reaches it may read all metrics."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == PATH and request.method in ("GET", "HEAD"):
            return await _page(request, None)
        return await handler(request)

    return answer


async def _page(request: web.Request, member: str | None) -> web.Response:
    metrics = of(request).books.metrics
    if metrics is None:
        return answers.empty(404)
    body, type_ = await metrics.page(request.headers.get("Accept", ""), member=member)
    return web.Response(body=body, headers={"Content-Type": type_, "Cache-Control": "no-store"})
