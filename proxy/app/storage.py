"""The data folder: its database, its secrets, its members."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proxy.app.process import Process, read_at_start
from proxy.members.directory import Directory
from proxy.members.marker import marker_of
from proxy.runtime.supervisor import Supervisor
from proxy.settings import ConfigError, Settings, read_secrets
from proxy.storage.database import Database
from proxy.storage.encryption import SECRET_FILE, Cipher, follow_secrets, stored_secrets
from proxy.storage.members import MemberRepository
from proxy.storage.sqlite import FILE
from proxy.storage.start import locked_folder, migrate_server, open_folder, open_server


@dataclass(frozen=True)
class Records:
    """The data folder with its database, which a process has whether it leads or not."""

    folder: Path
    database: Database
    supervisor: Supervisor
    cipher: Cipher


@dataclass(frozen=True)
class OpenStorage:
    """The records as the leader uses them in its term, and the members in them. The `supervisor`
    is that of the term."""

    folder: Path
    database: Database
    supervisor: Supervisor
    members: Directory
    cipher: Cipher


@asynccontextmanager
async def open_records(settings: Settings, failed: asyncio.Event) -> AsyncIterator[Records]:
    """Open the data folder and the database. Raises `ConfigError`."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(locked_folder(settings.data_dir))
        database = await _open_database(settings, folder)
        stack.push_async_callback(database.close)
        supervisor = Supervisor(failed)
        stack.push_async_callback(supervisor.close)
        supervisor.keep(database.watch, "watch the database")
        yield Records(
            folder, database, supervisor, await _cipher(settings, database, folder, supervisor)
        )


@asynccontextmanager
async def open_storage(process: Process, records: Records) -> AsyncIterator[OpenStorage]:
    """Load the members. Raises `ConfigError`."""
    settings, database = process.settings, records.database
    async with AsyncExitStack() as stack:
        supervisor = Supervisor(process.failed)
        stack.push_async_callback(supervisor.close)
        members = Directory(
            MemberRepository(database),
            marker=marker_of(settings),
            provisioned=settings.provisions_members,
            folders=filter(None, (settings.input_directory, settings.output_directory)),
        )
        await read_at_start("The members cannot be read", members.load)
        stack.push_async_callback(members.close)
        refuse_lost_members(settings, has_members=bool(members.members()))
        members.start(supervisor)
        yield OpenStorage(records.folder, database, supervisor, members, records.cipher)


def refuse_lost_members(settings: Settings, *, has_members: bool) -> None:
    """Raise `ConfigError` where there are no members although there should be some."""
    if has_members:
        return
    folder, marker = settings.data_dir, marker_of(settings)
    place = "" if settings.database is not None else f" --data-dir {folder}"
    add = f"add one (comfy-cloud-proxy member add NAME --role admin{place})"
    if marker is not None and marker.exists():
        raise ConfigError(
            f"The members of {folder} are missing, and without members anyone could use this "
            f"proxy: restore {folder / FILE} from a backup, {add}, or delete {marker} to continue "
            "without members."
        )
    if settings.provisions_members:
        return
    if settings.trusted_proxies and not settings.insecure_allow_anyone:
        raise ConfigError(
            f"trusted_proxies is set and there are no members, so anyone who reaches the reverse "
            f"proxy could use this proxy: {add}, or add --insecure-allow-anyone if the reverse "
            "proxy authenticates users."
        )


async def _open_database(settings: Settings, folder: Path) -> Database:
    async def open_database() -> Database:
        if settings.database is not None:
            await migrate_server(settings)
            return await open_server(settings)
        return await open_folder(folder, start_empty=settings.start_empty)

    return await read_at_start("The records cannot be opened", open_database)


async def _cipher(
    settings: Settings, database: Database, folder: Path, supervisor: Supervisor
) -> Cipher:
    secret = read_secrets(settings)
    cipher = Cipher(folder / SECRET_FILE, secret=secret)
    if secret is None and settings.database is not None:
        stored = partial(stored_secrets, database)
        cipher.use(await read_at_start("The secrets cannot be read", stored))
        supervisor.keep(partial(follow_secrets, database, cipher), "follow the secrets")
    return cipher
