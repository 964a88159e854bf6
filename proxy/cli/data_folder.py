"""`migrate`, `backup` and `restore`: a data folder without a server, or beside one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy import logging as logs
from proxy.cli.common import CommandError, UsageError
from proxy.cli.jobs import held_sentence
from proxy.cli.records import in_database
from proxy.cli.tables import say
from proxy.settings import Settings, read_secrets
from proxy.storage import backup as copies
from proxy.storage.backup import copy_folder
from proxy.storage.database import StorageError
from proxy.storage.encryption import rotate_secret as rotate
from proxy.storage.sqlite import FILE, open_sqlite
from proxy.storage.start import (
    HEAD,
    locked_folder,
    migrate_server,
    open_folder,
    opened_database,
    revision,
)


@contextmanager
def _command_errors(
    what: str, kinds: tuple[type[Exception], ...] = (StorageError,)
) -> Iterator[None]:
    """Turn an error into a `CommandError` that says what did not work."""
    try:
        yield
    except kinds as error:
        raise CommandError(f"{what}: {error}.") from None


def migrate(settings: Settings, source: Path | None = None) -> int:
    """Bring the database to this version's schema.

    With `source`, a data folder, it is migrated, and its records are copied into the PostgreSQL
    database, which has none. Raises `CommandError` when there is no such folder, when a server
    uses it, and when a record cannot be read: then nothing is changed. A PostgreSQL database may
    be in use, unless records are copied into it.
    """
    if source is not None:
        return _copy_folder(settings, source)
    folder, where = settings.data_dir, f"The data folder {settings.data_dir}"
    if settings.database is not None:
        where = "The PostgreSQL database"
        logs.configure()
        with _command_errors("The database cannot be migrated"):
            before = asyncio.run(migrate_server(settings))
    elif folder.is_dir():
        logs.configure()
        with _command_errors(f"{where} cannot be migrated"), locked_folder(folder):
            before = asyncio.run(_bring_up(folder))
    else:
        raise UsageError(
            f"There is no data folder {folder}: set --data-dir to the folder of the proxy."
        )
    say(f"{where} {'is at' if before == HEAD else 'is now at'} the schema {HEAD}.")
    return 0


def _copy_folder(settings: Settings, folder: Path) -> int:
    if settings.database is None:
        raise UsageError(
            "--from copies a data folder into PostgreSQL: set database to its address."
        )
    if not (folder / FILE).exists():
        raise UsageError(
            f"There is no {FILE} in {folder}: set --from to the data folder of a proxy."
        )
    logs.configure()

    async def copy() -> dict[str, int]:
        await _bring_up(folder)
        async with opened_database(settings) as database:
            return await copy_folder(folder, database)

    with _command_errors("Nothing was copied", (StorageError, OSError)), locked_folder(folder):
        copied = asyncio.run(copy())
    rows = sum(copied.values())
    say(
        f"{rows:,} rows of {folder} were copied to the PostgreSQL database: {copied['members']} "
        f"members, {copied['history']:,} entries of the history, {copied['jobs']} jobs."
    )
    return 0


async def _bring_up(folder: Path) -> str | None:
    """Bring a locked folder to this version; the schema before. Raises `StorageError`."""
    before = await _schema(folder)
    await (await open_folder(folder)).close()
    return before


async def _schema(folder: Path) -> str | None:
    if not (folder / FILE).exists():
        return None
    database = await open_sqlite(folder / FILE)
    try:
        return await database.read(revision)
    finally:
        await database.close()


def backup(settings: Settings, target: Path, *, force: bool = False) -> int:
    """Copy the data folder to a file, also while a server uses it; `force` replaces one that is
    there. Raises `CommandError`."""
    if settings.database is not None:
        raise UsageError(
            "The records are in PostgreSQL and not in the data folder: copy them with "
            "PostgreSQL's tools, as in pg_dump --format=custom --file=FILE DATABASE. The uploads "
            "are in the folder or bucket of blobs, if it is set."
        )
    if target.is_file() and not force:
        raise UsageError(f"The file {target} exists: choose another name, or add --force.")
    with _command_errors("The backup failed"):
        size = copies.backup(settings.data_dir, target.absolute())
    say(f"{settings.data_dir} was copied to {target} ({size:,} bytes).")
    return 0


def restore(settings: Settings, source: Path) -> int:
    """Replace what is in the data folder by a copy. Raises `CommandError`, `ConfigError`."""
    if settings.database is not None:
        raise UsageError(
            "The records are in PostgreSQL and not in the data folder: stop all processes, then "
            "restore a copy with PostgreSQL's tools, as in pg_restore --clean --dbname=NAME FILE, "
            "and hold the waiting jobs, which may have run since: comfy-cloud-proxy jobs hold."
        )
    folder = settings.data_dir
    with _command_errors("Nothing was restored"), locked_folder(folder):
        restored = copies.restore(source.absolute(), folder)
    say(f"{source} was restored to {folder}.")
    if restored.replaced is not None:
        say(f"The previous content is in {restored.replaced}.")
    if restored.held:
        say(held_sentence(restored.held))
    return 0


def rotate_secret(settings: Settings) -> int:
    """Make a new secret in the database. Raises `CommandError` where the secret is elsewhere."""
    if settings.database is None or read_secrets(settings) is not None:
        raise UsageError(
            "The secret is not in a PostgreSQL database: add a new first line to secret_file, and "
            "keep the old one below it."
        )
    with _command_errors("The secret cannot be changed"):
        seconds = in_database(settings, rotate)
    say(f"There is a new secret. Running processes use it in {seconds:g} seconds.")
    return 0
