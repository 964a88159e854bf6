"""What every request passes: the record, the faults, the credential, the limits."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler as WebHandler
from aiohttp.typedefs import Middleware

from proxy.simulator import delivery, errors
from proxy.simulator.account import offered_key
from proxy.simulator.call import Call, Handler, RouteAccess, answer
from proxy.simulator.errors import Refusal
from proxy.simulator.world import Tenant, World


def enter(world: World, handler: Handler, access: RouteAccess) -> WebHandler:
    """Return a handler for aiohttp that lets in whom the access allows."""

    async def handle(request: web.Request) -> web.StreamResponse:
        visitor = admitted(world, request, access)
        return await handler(Call(request, world, visitor))

    return handle


def admitted(world: World, request: web.Request, access: RouteAccess) -> Tenant | None:
    """Return whose request it is. Raises `Refusal` (401, 403, 429)."""
    key = offered_key(request.headers, request.query)
    tenant = world.tenant(key) if key is not None else None
    if access is RouteAccess.PUBLIC:
        return tenant
    if tenant is None:
        raise errors.unauthorized()
    if access is RouteAccess.CONTROL:
        return tenant
    switches = world.switches
    if switches.refuse_account is not None:
        raise errors.account_refusal(switches.refuse_account)
    if access is RouteAccess.PAID and tenant.account.plan == "free":
        raise errors.no_api_access()
    if switches.rate_limit and tenant.account.over_rate(switches.rate_limit):
        raise errors.rate_limited(switches)
    return tenant


def middleware(world: World) -> Middleware:
    """Return a middleware that notes each request, lets the faults happen, and gives refusals their
    form."""

    @web.middleware
    async def gate(request: web.Request, handler: WebHandler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        path = resource.canonical if resource is not None else request.path
        keys = [tenant.account.key for tenant in world.tenants]
        record = world.record.note(request, f"{request.method} {path}", keys)
        world.signal.notify()
        fault = None
        if not path.startswith("/simulator/"):  # or nobody could take the fault back
            key = offered_key(request.headers, request.query)
            fault = world.faults.http(record.route, f"{request.method} {request.path}", key=key)

        async def formed(request: web.Request) -> web.StreamResponse:
            return await _formed(request, handler)

        response = await delivery.answer(request, formed, fault)
        record.status = response.status
        return response

    return gate


async def _formed(request: web.Request, handler: WebHandler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return refused(refusal)
    except web.HTTPNotFound:
        if not request.path.startswith("/api/"):
            return web.Response(status=404, text="404 page not found\n")
        return refused(errors.not_found("no such route"))
    except web.HTTPMethodNotAllowed as error:
        wrong_method = errors.flat(405, "METHOD_NOT_ALLOWED", "method not allowed")
        wrong_method.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
        return refused(wrong_method)


def refused(refusal: Refusal) -> web.Response:
    """Return the answer that a refusal is."""
    if isinstance(refusal.body, str):
        return web.Response(status=refusal.status, text=refusal.body, headers=refusal.headers)
    return answer(refusal.body, refusal.status, refusal.headers)
