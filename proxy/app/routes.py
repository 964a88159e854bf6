"""Which routes a listener serves."""

from __future__ import annotations

from proxy.admin import routes as admin_routes
from proxy.api import routes as local_routes
from proxy.api.keys import OPTIONS, Services
from proxy.api.routes import Route

#: All routes. The last one of the local API matches any path.
ROUTES = (*admin_routes.ROUTES, *local_routes.ROUTES)


def of_clients(services: Services) -> list[Route]:
    """Return the routes of the clients' listener."""
    return [route for route in ROUTES if not (services[OPTIONS].admin_apart and route.apart)]


def of_admins() -> list[Route]:
    """Return the routes of the admin listener."""
    return [route for route in ROUTES if route.apart or f"{route.path}/".startswith("/proxy/")]
