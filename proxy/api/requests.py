"""What a handler asks of its request: its connection, its member, and the services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from proxy.edge.addressing import Way
from proxy.edge.admission import Admission
from proxy.edge.connections import Connection

if TYPE_CHECKING:
    from proxy.api.keys import Services


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection on which a request came."""
    protocol: Any = request.protocol
    connection: Connection = protocol
    return connection


def way_of(request: web.BaseRequest) -> Way:
    """Return how a request came."""
    return connection_of(request).way


def admission_of(request: web.BaseRequest) -> Admission:
    """Return the authenticated member of a request."""
    admission = connection_of(request).admission
    if admission is None:
        raise RuntimeError("the request was not authenticated")
    return admission


def token_of(request: web.BaseRequest) -> str:
    """Return the id of the token that a request was authenticated with, an empty text for none."""
    return admission_of(request).token or ""


def services_of(request: web.BaseRequest) -> Services:
    """Return the services of the listener that got a request, before its route is resolved too."""
    services: Services = connection_of(request).context.services
    return services


def member_of(request: web.BaseRequest) -> str:
    """Return the member who sent a request."""
    return admission_of(request).member
