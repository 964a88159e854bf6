"""The local API as an aiohttp application."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.api import socket
from proxy.api.access import DOOR, Door
from proxy.api.admin import dashboard
from proxy.api.admin.metrics import open_metrics
from proxy.api.books import limited
from proxy.api.cors import cors_headers
from proxy.api.crowd import Crowd
from proxy.api.middleware import gate
from proxy.api.privacy import keep_private
from proxy.api.routes import add_routes, of_admins, of_clients
from proxy.api.services import SERVICES, Services
from proxy.translate.errors import LocalError

__all__ = ["SERVICES", "Services", "make_admin_app", "make_app", "server_logger"]


def make_app(services: Services) -> web.Application:
    """The application. Whoever runs it starts and closes the services."""
    app = web.Application(
        middlewares=[
            gate(services.cors_origins, compress=services.compress, metrics=services.books.metrics),
            limited(services.books),
        ],
        client_max_size=services.max_upload_bytes,
    )
    app[SERVICES] = services
    _add_door(app, services)
    app[socket.CROWD] = Crowd()
    add_routes(app, of_clients(apart=services.admin_apart))
    if services.cors_origins:
        app.on_response_prepare.append(cors_headers(services.cors_origins))
    app.on_shutdown.append(socket.close_all)
    app.on_shutdown.append(dashboard.close)
    return app


def make_admin_app(services: Services) -> web.Application:
    """The application of the admin listener: metrics for whoever reaches it, the rest for members.

    Whoever runs it starts and closes the services.
    """
    app = web.Application(
        middlewares=[
            open_metrics(),
            gate(compress=services.compress, metrics=services.books.metrics),
            limited(services.books),
        ],
        client_max_size=services.max_upload_bytes,
    )
    app[SERVICES] = services
    _add_door(app, services)
    add_routes(app, of_admins())
    app.on_shutdown.append(dashboard.close)
    return app


def _add_door(app: web.Application, services: Services) -> None:
    app[DOOR] = Door(
        services.members,
        base_path=services.base_path,
        trusted_proxies=services.trusted_proxies,
        cors_origins=services.cors_origins,
        on_wrong=services.books.wrong_token,
    )
    app.on_response_prepare.append(keep_private)


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
