"""The local API as an aiohttp application."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.api import socket
from proxy.api.admin import dashboard
from proxy.api.crowd import Crowd
from proxy.api.origins import allow_some
from proxy.api.routes import add_routes, of_admins, of_clients
from proxy.api.services import SERVICES, Services
from proxy.translate.errors import LocalError

__all__ = ["Services", "make_admin_app", "make_app", "server_logger"]


def make_app(services: Services) -> web.Application:
    """The application. Whoever runs it starts and closes the services."""
    app = web.Application(client_max_size=services.max_upload_bytes)
    app[SERVICES] = services
    app[socket.CROWD] = Crowd()
    add_routes(app, of_clients(apart=services.admin_apart))
    allow_some(app, services.cors_origins)
    app.on_shutdown.append(socket.close_all)
    app.on_shutdown.append(dashboard.close)
    return app


def make_admin_app(services: Services) -> web.Application:
    """The application of the admin listener: what is for admins.

    Whoever runs it starts and closes the services.
    """
    app = web.Application(client_max_size=services.max_upload_bytes)
    app[SERVICES] = services
    add_routes(app, of_admins())
    app.on_shutdown.append(dashboard.close)
    return app


class _OneLineForClientFaults(logging.Filter):
    """What is not HTTP, cannot be unpacked or breaks off is the client's fault: no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        faults = HttpProcessingError | web.RequestPayloadError | ConnectionError | LocalError
        if isinstance(error, faults):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "bad HTTP of a client: %s", (type(error).__name__,)
            record.exc_info = None
        return True


def server_logger() -> logging.Logger:
    """The logger for `web.AppRunner`."""
    logger = logging.getLogger("proxy.api.server")
    if not logger.filters:
        logger.addFilter(_OneLineForClientFaults())
    return logger
