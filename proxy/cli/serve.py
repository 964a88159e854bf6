"""`serve`: the proxy as a process, from its settings to its last signal."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import structlog

from proxy import logging as logs
from proxy.app import new_process
from proxy.app.standbys import Listening, open_standby
from proxy.app.storage import open_records, refuse_lost_members
from proxy.cli.banner import Banner
from proxy.cli.common import chosen_accounts
from proxy.cli.serving import Serving
from proxy.edge.accepting import listen
from proxy.edge.context import ConnectionLimits
from proxy.edge.tls import Certificate, CertificateError
from proxy.members.marker import any_members
from proxy.runtime.supervisor import Supervisor
from proxy.settings import ConfigError, Settings, default_data_dir, pictures_folder, record_options
from proxy.storage.database import StorageError
from proxy.storage.members import MemberRepository
from proxy.storage.start import at_start, opened_database

if sys.platform == "win32":
    _LOOP_FACTORY = None
else:
    import uvloop

    _LOOP_FACTORY = uvloop.new_event_loop

log = structlog.get_logger(__name__)

#: Seconds that stopping may take, to finish requests and close websockets: Docker kills 10 s after
#: SIGTERM, and other managers of services later. Jobs continue on the cloud.
STOP_TIMEOUT = 8.0

#: Objects that are made before those that are unreachable are looked for. Few are in circles, and a
#: look at each 700 (Python's own bound) takes a twentieth of the time of a busy server.
_YOUNG = 10_000

#: The part of the time to stop that is left for the services, when the clients are gone.
_SHARE_OF_SERVICES = 0.2


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Raises `ConfigError` for what must be set otherwise."""
    handler = logs.configure(log_format=settings.log_format, log_level=settings.log_level)
    logs.log_crashes()
    has_members = _has_members(settings)
    refuse_lost_members(settings, has_members=has_members)
    has_members = has_members or settings.provisions_members
    refuse_open_access(settings, has_members=has_members)
    settings = _with_pictures(settings, has_members=has_members)
    banner = None
    if settings.log_format == "console" and sys.stdout.isatty():
        banner = Banner(settings, handler, has_members=has_members)
    with asyncio.Runner(loop_factory=_LOOP_FACTORY) as runner:
        runner.run(_serve(settings, banner))
    return 0


async def _serve(settings: Settings, banner: Banner | None) -> None:
    """Serve until a signal or until background work cannot be kept up.

    SIGHUP lets the keys be read again.
    """
    stop, failed = asyncio.Event(), asyncio.Event()
    _stop_on_signals(stop)
    async with AsyncExitStack() as stack:
        listening = await _listening(settings)
        stack.callback(listening.close)
        chosen = await stack.enter_async_context(chosen_accounts(settings))
        records = await stack.enter_async_context(open_records(settings, failed))
        process = new_process(settings, failed)
        limits = ConnectionLimits(max_connections=settings.max_connections)
        stop_timeout = (1 - _SHARE_OF_SERVICES) * STOP_TIMEOUT
        background = Supervisor(failed)
        stack.push_async_callback(background.close)
        if listening.certificate is not None:
            background.keep(listening.certificate.follow, "follow the certificate")
        ends = [background.spawn(event.wait(), "wait for the end") for event in (stop, failed)]
        standby = None
        if settings.database is not None:
            standby = await stack.enter_async_context(
                open_standby(
                    process, records, listening, limits, chosen.accounts, stop_timeout=stop_timeout
                )
            )
        serving = Serving(
            process=process,
            records=records,
            listening=listening,
            limits=limits,
            chosen=chosen,
            reread_keys=_hangup(),
            banner=banner,
            standby=standby,
            stop_timeout=stop_timeout,
        )
        await serving.run(*ends)
        if failed.is_set():
            raise RuntimeError("background work failed too often; the log above has the reason")


async def _listening(settings: Settings) -> Listening:
    """Listen for clients and for admins, before anything is asked of the cloud. Raises
    `ConfigError`."""
    certificate = _certificate(settings)
    try:
        sockets = await listen(settings.hosts, settings.port)
    except OSError as error:
        if (sentence := _binding_problem(error, settings)) is None:
            raise
        raise ConfigError(sentence) from None
    if settings.admin_listen is None:
        return Listening(sockets, certificate=certificate)
    host, port = settings.admin_listen
    try:
        return Listening(sockets, await listen([host], port), certificate)
    except OSError as error:
        raise ConfigError(
            f"The address {host}:{port} of admin_listen cannot be used ({error.strerror}): choose "
            "another one."
        ) from error


def _with_pictures(settings: Settings, *, has_members: bool) -> Settings:
    """Return the settings with the output directory of a person who uses the proxy alone."""
    own = settings.data_dir == default_data_dir(simulated=settings.simulate)
    shared = has_members or settings.database is not None or _in_container()
    if (
        settings.output_directory is not None
        or not settings.save_outputs
        or not own
        or shared
        or not all(map(listens_locally, settings.hosts))
    ):
        return settings
    folder = pictures_folder(simulated=settings.simulate)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("outputs_not_saved", folder=str(folder), reason=error.strerror)
        return settings
    return settings.model_copy(update={"output_directory": folder})


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


def _has_members(settings: Settings) -> bool:
    try:
        if settings.database is None:
            return any_members(settings.data_dir)
        return asyncio.run(at_start(partial(_any_in_database, settings)))
    except StorageError as error:
        raise ConfigError(f"The members cannot be read: {error}.") from None


async def _any_in_database(settings: Settings) -> bool:
    async with opened_database(settings) as database:
        return await MemberRepository(database).any()


def refuse_open_access(settings: Settings, *, has_members: bool = False) -> None:
    """Raise `ConfigError` when others than this machine could come in without being asked to."""
    if has_members or settings.insecure_allow_anyone or all(map(listens_locally, settings.hosts)):
        return
    danger = (
        f"Listening on {settings.host} lets anyone who reaches it spend your Comfy Cloud credits "
        "and read your files"
    )
    options = record_options(settings)
    token = (
        f"give each client a token (comfy-cloud-proxy member add NAME{options}, then "
        f"comfy-cloud-proxy token new NAME{options})"
    )
    if _in_container():
        raise ConfigError(
            f"{danger}: {token}, or set COMFY_PROXY_INSECURE_ALLOW_ANYONE=1 if only trusted "
            "programs can reach the port, for example on a private network or with -p "
            "127.0.0.1:8188:8188."
        )
    raise ConfigError(
        f"{danger}: {token}, use --host 127.0.0.1, or add --insecure-allow-anyone if only trusted "
        "programs can reach the port."
    )


def _in_container() -> bool:
    """Return whether this process is in a container, whose own loopback address nobody else
    reaches."""
    return "container" in os.environ or Path("/.dockerenv").exists()


def listens_locally(host: str) -> bool:
    """Return whether only this machine can reach what listens on `host`, an address or a name."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ConfigError(
            f"The host {host} has no address: set --host to an address of this machine."
        ) from None
    return all(ipaddress.ip_address(str(entry[4][0])).is_loopback for entry in found)


def _binding_problem(error: OSError, settings: Settings) -> str | None:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {settings.port} on {settings.host} is in use, perhaps by a local ComfyUI: "
            "stop that program or choose another port with --port."
        )
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{settings.host} is not an address of this machine: set --host."
    if error.errno in (errno.EACCES, errno.EPERM) and error.filename is None:
        return (
            f"Port {settings.port} is not allowed for this user: choose one above 1023 with --port."
        )
    return None


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Stop within `STOP_TIMEOUT` seconds on the first signal, and without waiting on the second.

    What hangs when the time is over, a thread or a disk, is left: nothing that was accepted
    depends on it.
    """
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        overtime = threading.Timer(STOP_TIMEOUT, os._exit, (0,))
        overtime.daemon = True
        overtime.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, handle, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda received, _: loop.call_soon_threadsafe(handle, received))


def _hangup() -> asyncio.Event:
    """Return the event that SIGHUP sets, on systems that have it."""
    event = asyncio.Event()
    if sys.platform != "win32":
        with suppress(RuntimeError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, event.set)
    return event
