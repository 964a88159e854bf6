"""The composition root: makes every room, joins them, and takes them down in the right order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from aiohttp import web
from yarl import URL

from proxy import folder
from proxy.catalogue.service import Catalogue
from proxy.cloud.client import CloudClient
from proxy.cloud.socket import EventSocket
from proxy.config import Settings
from proxy.files.service import Files
from proxy.jobs.service import Jobs, Policy
from proxy.local.app import Services, make_app, server_logger
from proxy.store.sqlite import SqliteStore

log = structlog.get_logger(__name__)

#: Seconds for which a submission waits until the event socket is open.
_SOCKET_PATIENCE = 3.0


@asynccontextmanager
async def rooms(
    settings: Settings, *, base_url: URL, key: str, policy: Policy | None = None
) -> AsyncIterator[Services]:
    """All rooms, started; closed in the opposite order behind the block.

    `policy` replaces that of the settings. Raises `ConfigError` when the data folder cannot be
    used.
    """
    async with AsyncExitStack() as stack:
        path = stack.enter_context(folder.held(settings.data_dir))
        store = await SqliteStore.open(path / "proxy.sqlite")
        stack.push_async_callback(store.close)
        cloud = CloudClient(base_url, key)
        await cloud.start()
        stack.push_async_callback(cloud.close)
        files = Files(store, cloud, path / "files", cache_bytes=settings.cache_bytes)
        await files.start()
        stack.push_async_callback(files.close)
        catalogue = Catalogue(cloud, path / "catalogue", max_age=settings.catalogue_max_age)
        await catalogue.start()
        stack.push_async_callback(catalogue.close)
        socket = EventSocket(
            base_url,
            key,
            on_event=lambda type_, data: jobs.router.on_event(type_, data),
            on_frame=lambda frame: jobs.router.on_frame(frame),
            on_up=lambda: jobs.socket_opened(),
            on_down=lambda: jobs.socket_lost(),
        )
        jobs = Jobs(
            store=store,
            cloud=cloud,
            files=files,
            known_class=catalogue.known,
            connected=lambda: socket.connected,
            opened=lambda: socket.wait_connected(_SOCKET_PATIENCE),
            policy=policy or _policy(settings, key),
        )
        await socket.start()
        stack.push_async_callback(socket.close)
        await jobs.start()
        stack.push_async_callback(jobs.close)
        yield Services(
            jobs=jobs,
            files=files,
            catalogue=catalogue,
            max_upload_bytes=settings.max_upload_bytes,
            cors_origins=settings.cors_origins,
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

    Raises `OSError` when the address cannot be listened on.
    """
    async with rooms(settings, base_url=base_url, key=key) as services:
        runner = web.AppRunner(
            make_app(services),
            access_log=None,
            logger=server_logger(),
            shutdown_timeout=settings.shutdown_timeout,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, settings.host, settings.port)
            await site.start()
            ready(_address(settings.host, runner))
            await stop.wait()
            log.info("stopping")
        finally:
            await runner.cleanup()


def _policy(settings: Settings, key: str) -> Policy:
    return Policy(
        key=key,
        send_partner_key=settings.send_partner_key,
        history_size=settings.history_size,
    )


def _address(host: str, runner: web.AppRunner) -> str:
    """Where it listens, with the port that the system chose if none was given."""
    port = runner.addresses[0][1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
