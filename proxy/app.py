"""The composition root: makes every room, joins them, and takes them down in the right order."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from yarl import URL

from proxy import folder, telemetry
from proxy.account_key import AccountKey
from proxy.catalogue.service import Catalogue
from proxy.cloud.circuit import Circuit
from proxy.cloud.client import CloudClient
from proxy.cloud.silence import Silence
from proxy.cloud.socket import EventSocket
from proxy.cloud.waits import Patience, Waits
from proxy.config import ConfigError, Settings
from proxy.files.service import Files
from proxy.jobs.request import Policy
from proxy.jobs.service import Jobs
from proxy.local import web_packages
from proxy.local.guard import Limits
from proxy.local.journal import Journal
from proxy.local.server import Server
from proxy.local.services import Services
from proxy.local.web_packages import WebInterface
from proxy.members import directory
from proxy.members.directory import Directory
from proxy.readiness import Readiness
from proxy.store.base import StoreError
from proxy.store.sqlite import SqliteStore
from proxy.userdata.base import UserData
from proxy.userdata.on_cloud import UserDataOnCloud
from proxy.userdata.on_disk import UserDataOnDisk

log = structlog.get_logger(__name__)

#: What of the time to stop is left to the rooms below, when the clients are gone.
_SHARE_OF_ROOMS = 0.2


@dataclass(frozen=True, slots=True)
class Tempo:
    """How soon trouble with the cloud is noticed and things are tried again.

    Times are seconds. `heartbeat`, `silence` and `socket_waits` are the event socket's, for which
    a submission waits up to `socket_patience`; a key's file is looked at every `key_interval`; an
    answer about readiness is at most `ready_age` old.
    """

    patience: Patience = field(default_factory=Patience)
    circuit: Callable[[], Circuit] = Circuit
    heartbeat: float = 20.0
    silence: Callable[[], Silence] = Silence
    socket_waits: Waits = field(default_factory=lambda: Waits(first=0.5, longest=30.0))
    socket_patience: float = 3.0
    catalogue_patience: float = 10.0
    key_interval: float = 2.0
    ready_age: float = 3.0


@asynccontextmanager
async def rooms(
    settings: Settings,
    *,
    base_url: URL,
    key: str,
    policy: Policy | None = None,
    tempo: Tempo | None = None,
    reread_key: asyncio.Event | None = None,
    interface: WebInterface | None = None,
) -> AsyncIterator[Services]:
    """All rooms, started; closed in the opposite order behind the block.

    `policy` replaces that of the settings. When `reread_key` is set the key is read again. Without
    an `interface` the one that is installed is served.
    Raises `ConfigError` when the data folder cannot be used.
    """
    tempo = tempo or Tempo()
    async with AsyncExitStack() as stack:
        path = stack.enter_context(folder.held(settings.data_dir))
        store = await _open_store(path / "proxy.sqlite")
        stack.push_async_callback(store.close)
        members = await _open_members(path)
        stack.push_async_callback(members.close)
        members.start()
        cloud = CloudClient(base_url, key, patience=tempo.patience, circuit=tempo.circuit())
        await cloud.start()
        stack.push_async_callback(cloud.close)
        files = Files(
            store,
            {"default": cloud},
            path / "files",
            cache_bytes=settings.cache_bytes,
            prefetch=settings.prefetch,
        )
        await files.start()
        stack.push_async_callback(files.close)
        catalogue = Catalogue(cloud, path / "catalogue", max_age=settings.catalogue_max_age)
        await catalogue.start()
        stack.push_async_callback(catalogue.close)
        userdata: UserData = UserDataOnDisk(path / "userdata")
        if settings.userdata == "cloud":
            userdata = UserDataOnCloud(cloud.user_data)
        await userdata.start()
        socket = EventSocket(
            base_url,
            key,
            on_event=lambda type_, data: jobs.router.on_event(type_, data),
            on_frame=lambda frame: jobs.router.on_frame(frame),
            on_up=lambda: jobs.socket_opened(),
            on_down=lambda: jobs.socket_lost(),
            due=lambda: jobs.any_running(),
            heartbeat=tempo.heartbeat,
            silence=tempo.silence(),
            waits=tempo.socket_waits,
        )

        async def opened() -> bool:
            _, connected = await asyncio.gather(
                catalogue.wait_loaded(tempo.catalogue_patience),
                socket.wait_connected(tempo.socket_patience),
            )
            return connected

        jobs = Jobs(
            store=store,
            cloud=cloud,
            files=files,
            known_class=catalogue.known,
            connected=lambda: socket.connected,
            opened=opened,
            policy=policy or _policy(settings, key),
        )
        journal = Journal(jobs.hub)
        stack.enter_context(telemetry.lines_told(journal.add))
        await socket.start()
        stack.push_async_callback(socket.close)
        await jobs.start()
        stack.push_async_callback(jobs.close)

        async def use_key(new: str) -> None:
            cloud.use_key(new)
            jobs.use_key(new)
            await socket.use_key(new)

        if not settings.simulate:
            asked = reread_key or asyncio.Event()
            interval = tempo.key_interval
            account_key = AccountKey(settings, key, use_key, asked=asked, interval=interval)
            following = asyncio.create_task(account_key.follow(), name="follow the key")
            stack.push_async_callback(_end, following)
        yield Services(
            jobs=jobs,
            files=files,
            catalogue=catalogue,
            userdata=userdata,
            journal=journal,
            members=members,
            base_path=settings.base_path,
            trusted_proxies=settings.trusted_proxies,
            max_upload_bytes=settings.max_upload_bytes,
            cors_origins=settings.cors_origins,
            compress=settings.compress,
            checks=Readiness(store, cloud, socket, max_age=tempo.ready_age).checks,
            ping_interval=settings.ping_interval,
            interface=web_packages.installed() if interface is None else interface,
        )


async def serve(
    settings: Settings,
    *,
    base_url: URL,
    key: str,
    ready: Callable[[str], None],
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set. `ready` gets `http://HOST:PORT` when clients can connect.

    SIGHUP lets the key be read again. Raises `OSError` when the address cannot be listened on.
    """
    async with rooms(settings, base_url=base_url, key=key, reread_key=_hangup()) as services:
        stop_timeout = (1 - _SHARE_OF_ROOMS) * settings.shutdown_timeout
        server = Server(services, _limits(settings), stop_timeout=stop_timeout)
        try:
            ready(await server.start(settings.host, settings.port))
            await stop.wait()
            log.info("stopping")
        finally:
            await server.stop()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _hangup() -> asyncio.Event:
    """What SIGHUP sets, on systems that have it."""
    event = asyncio.Event()
    with suppress(AttributeError, NotImplementedError, RuntimeError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, event.set)
    return event


async def _open_members(folder: Path) -> Directory:
    try:
        return await Directory.open(folder)
    except StoreError as error:
        raise ConfigError(
            f"The members cannot be read ({error}): repair {folder / directory.FILE}, or restore "
            "it from a copy."
        ) from error


async def _open_store(path: Path) -> SqliteStore:
    try:
        return await SqliteStore.open(path)
    except StoreError as error:
        raise ConfigError(f"The records cannot be opened: {error}.") from error


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_connections=settings.max_connections,
        header_timeout=settings.header_timeout,
        body_timeout=settings.body_timeout,
        header_bytes=settings.max_header_bytes,
    )


def _policy(settings: Settings, key: str) -> Policy:
    return Policy(
        key=key,
        send_partner_key=settings.send_partner_key,
        history_size=settings.history_size,
    )
