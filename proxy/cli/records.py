"""What commands read and write in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proxy.cli.common import CommandError, UsageError
from proxy.cli.tables import say
from proxy.members import audit
from proxy.members.directory import Directory
from proxy.members.marker import marker_of
from proxy.members.member import DirectoryError
from proxy.settings import Settings
from proxy.storage.database import Database, StorageError
from proxy.storage.members import MemberRepository
from proxy.storage.start import has_database, opened_database
from proxy.storage.usage import UsageRepository

T = TypeVar("T")


def in_database(settings: Settings, use: Callable[[Database], Awaitable[T]]) -> T:
    """Return what `use` gives for the database of the settings. Raises `StorageError`."""

    async def run() -> T:
        async with opened_database(settings) as database:
            return await use(database)

    return asyncio.run(run())


def with_directory(
    settings: Settings, use: Callable[[Directory], Awaitable[T]], *, make: bool = False
) -> T:
    """Return what `use` gives for the members of the data folder.

    Where there are none yet, `make` lets their database be made; otherwise nothing is.
    """
    folder, shared = settings.data_dir, settings.database is not None
    known = make or has_database(settings)
    if not known and not folder.is_dir():
        raise UsageError(
            f"There is no data folder {folder}: set --data-dir to the folder of the proxy."
        )

    async def run() -> T:
        if not known:
            return await use(Directory())
        async with opened_database(settings) as database:
            directory = Directory(MemberRepository(database), marker=marker_of(settings))
            await directory.load()
            return await use(directory)

    try:
        return asyncio.run(run())
    except DirectoryError as error:
        raise UsageError(str(error)) from None
    except StorageError as error:
        raise CommandError(
            f"The members cannot be used: {error}."
            if shared
            else f"The members in {folder} cannot be used ({error}): set --data-dir to the folder "
            "of the proxy, or correct its permissions."
        ) from None


def record_action(settings: Settings, action: str, **about: audit.Value) -> None:
    """Write an action of the command line to the audit log, or say that it cannot be written."""
    if settings.audit_days == 0:
        return
    try:
        in_database(
            settings, lambda database: audit.record(UsageRepository(database), action, **about)
        )
    except StorageError as error:
        say(f"The audit log could not be written ({error}).", err=True)
