"""The proxy on its addresses: from the first connection to the end that a signal asks for."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog

from proxy.api.connection_manager import ConnectionLimits
from proxy.api.server import Certificate, CertificateError, Server, Services
from proxy.app import lifespan
from proxy.settings import AccountAccess, ConfigError, Settings

log = structlog.get_logger(__name__)

#: What of the time to stop is left to the services below, when the clients are gone.
_SHARE_OF_SERVICES = 0.2


async def serve(
    settings: Settings,
    *,
    accounts: Sequence[AccountAccess],
    ready: Callable[[str], None],
    stop: asyncio.Event,
    tell: Callable[[Problems], None] | None = None,
) -> None:
    """Serve until `stop` is set. `ready` gets `http://HOST:PORT` when clients can connect.

    `tell` gets the problems once the cloud has answered; without it they are logged. SIGHUP lets
    the keys be read again. Raises `OSError` when the address cannot be listened on, and
    `ConfigError` when the certificate cannot be used.
    """
    certificate = _certificate(settings)
    context = certificate.context if certificate is not None else None
    failed = asyncio.Event()
    async with lifespan(
        settings, accounts=accounts, reread_keys=_hangup(), failed=failed
    ) as services:
        stop_timeout = (1 - _SHARE_OF_SERVICES) * settings.shutdown_timeout
        limits = _limits(settings)
        server = Server(services, limits, stop_timeout=stop_timeout)
        servers = [server]
        following: list[asyncio.Task[None]] = []
        spent = 0.0
        try:
            if settings.admin_listen is not None:
                admin = Server(services, limits, stop_timeout=stop_timeout, admin=True)
                await _listen_for_admins(admin, *settings.admin_listen)
                servers.append(admin)
            ready(await server.start(settings.host, settings.port, context=context))
            telling = services.supervisor.spawn(
                _tell_problems(services, tell or _log_problems), "tell problems"
            )
            following.append(telling)
            if certificate is not None:
                keep = services.supervisor.keep
                following.append(keep(certificate.follow, "follow the certificate"))
            await _first_of(stop, failed)
            if failed.is_set():
                raise RuntimeError("background work failed too often; the log above has the reason")
            log.info("shutdown_started")
            began = time.monotonic()
            if services.readiness is not None:
                await services.readiness.leave()
            spent = time.monotonic() - began
        finally:
            for task in following:
                await _end(task)
            await asyncio.gather(*(one.stop(spent=spent) for one in servers))


#: What keeps jobs from being taken: the account (`""` for the only one and the store), a sentence.
Problems = Sequence[tuple[str, str]]


async def _tell_problems(services: Services, tell: Callable[[Problems], None]) -> None:
    """Tell what keeps jobs from being taken, as `GET /readyz` does.

    The event sockets are left out: they open a little later, and say themselves if they cannot.
    """
    if services.readiness is None:
        return
    report = await services.readiness.report(patient=True)
    accounts: Mapping[str, Any] = report.checks.get("accounts", {"": report.checks})
    found = {("", report.checks.get("store", "ok"))}
    found |= {(name, checks.get("key", "ok")) for name, checks in accounts.items()}
    tell([(name, problem) for name, problem in sorted(found) if problem != "ok"])


def _log_problems(problems: Problems) -> None:
    for name, problem in problems:
        log.warning("readiness_failed", reason=problem, **({"account": name} if name else {}))


async def _listen_for_admins(server: Server, host: str, port: int) -> None:
    try:
        address = await server.start(host, port)
    except OSError as error:
        raise ConfigError(
            f"The address {host}:{port} of admin_listen cannot be used ({error.strerror}): choose "
            "another one."
        ) from error
    log.info("admin_listener_started", address=address)


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        missing = "tls_key" if settings.tls_key is None else "tls_cert"
        raise ConfigError(f"The setting {missing} is missing: set both tls_cert and tls_key.")
    try:
        return Certificate(settings.tls_cert, settings.tls_key)
    except CertificateError as error:
        raise ConfigError(str(error)) from None


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waits:
            one.cancel()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _hangup() -> asyncio.Event:
    """What SIGHUP sets, on systems that have it."""
    event = asyncio.Event()
    if sys.platform != "win32":
        with suppress(RuntimeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, event.set)
    return event


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        max_connections=settings.max_connections,
        header_timeout=settings.header_timeout,
        body_timeout=settings.body_timeout,
        write_timeout=settings.write_timeout,
        idle_timeout=settings.idle_timeout,
        header_bytes=settings.max_header_bytes,
    )
