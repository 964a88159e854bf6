"""`check`: whether everything that the proxy needs works."""

from __future__ import annotations

import asyncio
import logging
import platform
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Connection

from proxy import __version__
from proxy import logging as logs
from proxy.app.sign_in import check_providers, template_problem
from proxy.cli.check_accounts import check_accounts, listed_accounts
from proxy.cli.check_report import CheckError, CheckReport
from proxy.cli.common import chosen_accounts
from proxy.cli.tables import print_json
from proxy.cloud.observations import AccountObservations, identity_of
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.releases import Releases
from proxy.files.blobs import BlobError, open_blobs
from proxy.members.directory import Directory
from proxy.settings import ConfigError, LoadedSettings, Settings, nodes_of
from proxy.storage.database import Database, StorageError
from proxy.storage.members import MemberRepository
from proxy.storage.sqlite import FILE, open_sqlite
from proxy.storage.start import HEAD, has_database, is_usable, open_server, revision
from proxy.storage.usage import FACT, Observation, ObservationRepository
from proxy.translate import codec

#: What is printed instead of a secret.
HIDDEN = "(hidden)"


def check(loaded: LoadedSettings, *, as_json: bool) -> int:
    """Print what works and what does not. Returns 0 if everything does, 1 otherwise."""
    logs.configure()
    logging.disable(logging.CRITICAL)  # the lines themselves say what went wrong
    settings, checks = loaded.settings, CheckReport(quiet=as_json)
    chosen = _chosen_settings(loaded)
    places = [f"{name} ({row['source']})" for name, row in chosen.items()]
    checks.add("settings", fine=", ".join(places) or "All settings are defaults.")
    try:
        asyncio.run(_check(settings, checks))
    finally:
        logging.disable(logging.NOTSET)
    if as_json:
        report = {
            "version": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "simulate": settings.simulate,
            "ok": checks.fine,
            "settings": chosen,
            "checks": checks.rows,
        }
        print_json(report)
    return 0 if checks.fine else 1


def _chosen_settings(loaded: LoadedSettings) -> dict[str, dict[str, Any]]:
    """Return the settings that are not defaults, with their values and where each is written."""
    chosen = {
        name: {"value": _plain(getattr(loaded.settings, name)), "source": source.replace("`", "")}
        for name, source in sorted(loaded.sources.items())
    }
    for table in ("accounts", "providers"):
        if table in chosen:
            chosen[table]["value"] = [row.name for row in getattr(loaded.settings, table)]
    return chosen


def _plain(value: Any) -> Any:
    """Return the value of a setting as JSON has it."""
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


async def _check(settings: Settings, checks: CheckReport) -> None:
    if settings.simulate:
        async with chosen_accounts(settings) as chosen:
            await check_accounts([(account, "") for account in chosen.accounts], checks)
    else:
        await check_accounts(listed_accounts(settings), checks)
    checks.account = None
    await checks.passes("data folder", _data_folder(settings.data_dir))
    if settings.database is None or await checks.passes("database", _database(settings)):
        await _anomalies(settings, checks)
        await _template(settings, checks)
    await _providers(settings, checks)
    if settings.blobs is not None:
        await checks.passes("blobs", _blobs(settings.blobs))


async def _data_folder(folder: Path) -> str:
    def write() -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as file:
            file.write(b"comfy-cloud-proxy")
            file.flush()

    try:
        await asyncio.to_thread(write)
    except OSError as error:
        raise CheckError(
            f"{folder} is not writable ({error.strerror}): free disk space, correct its "
            "permissions or choose another with --data-dir."
        ) from None
    return f"{folder} is writable."


async def _database(settings: Settings) -> str:
    """Look at the PostgreSQL database, and change nothing."""
    try:
        database = await open_server(settings)
        try:
            schema = await database.read(revision)
            version = await database.read(_server_version)
            usable = await database.read(is_usable)
        finally:
            await database.close()
    except StorageError as error:
        raise CheckError(
            f"It cannot be used ({error}): start it, or correct COMFY_PROXY_DATABASE."
        ) from None
    if not usable:
        raise CheckError(
            f"It has the schema {schema}, which this version does not know: update the program."
        )
    tables = "has no tables yet" if schema is None else f"has the schema {schema}"
    return f"PostgreSQL {version} answers and {tables}."


def _server_version(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SHOW server_version").scalar_one()).split()[0]


async def _blobs(place: str) -> str:
    try:
        store = open_blobs(place)
        try:
            await store.check()
        finally:
            await store.close()
    except BlobError as error:
        raise CheckError(f"They cannot be used ({error}): correct COMFY_PROXY_BLOBS.") from None
    return f"{place} can be written and read."


async def _anomalies(settings: Settings, checks: CheckReport) -> None:
    """Tell how often the cloud did what nobody has listed; that is no failure."""
    try:
        async with _looked_at(settings) as database:
            if database is None:
                return
            rows = await ObservationRepository(database).load()
    except StorageError as error:
        checks.add("anomalies", problem=f"The database cannot be read ({error}).")
        return
    await _releases(settings, rows, checks)
    seen = [row for row in rows if row.kind != FACT]
    if not seen:
        checks.add("anomalies", fine="All answers of Comfy Cloud are documented.")
        return
    named = ", ".join(f"{row.kind} {row.name}".strip() for row in seen[-3:])
    more = f" and {len(seen) - 3} more" if len(seen) > 3 else ""
    checks.add(
        "anomalies",
        fine=f"Comfy Cloud sent {sum(row.count for row in seen)} undocumented answers or events "
        f"({named}{more}): report the output of GET /proxy/api/cloud-anomalies.",
    )


async def _releases(settings: Settings, rows: list[Observation], checks: CheckReport) -> None:
    """Tell which deployments run a newer release than their list of nodes, as jobs reported it."""
    if any(row.name == "deployment_classes" and codec.loads(row.value) == "others" for row in rows):
        checks.add(
            "own nodes",
            fine="Comfy Cloud lets the key pick a deployment, and shows its nodes then: report the "
            "output of comfy-cloud-probe --level run.",
        )
    for table in settings.accounts:
        if (place := nodes_of(table)) is None or table.base_url is None:
            continue
        known = AccountObservations(table.name)
        identity = identity_of(table.name, table.base_url)
        for row in rows:
            if row.identity == identity:
                known.restore(row)
        if notice := await Releases(known, NodeList(place)).notice():
            checks.add("release", fine=f"{table.name}: {notice}.")


@asynccontextmanager
async def _looked_at(settings: Settings) -> AsyncIterator[Database | None]:
    """Open the database, which looking does not change; `None` if there is none with this schema.
    Raises `StorageError`."""
    if not has_database(settings):
        yield None
        return
    file = settings.data_dir / FILE
    database = await (open_sqlite(file) if settings.database is None else open_server(settings))
    try:
        yield database if await database.read(revision) == HEAD else None
    finally:
        await database.close()


async def _template(settings: Settings, checks: CheckReport) -> None:
    """Look for the member whose limits new members get."""
    if settings.sign_in_template is None:
        return
    try:
        async with _looked_at(settings) as database:
            members = Directory(None if database is None else MemberRepository(database))
            await members.load()
            problem = template_problem(settings, members)
    except StorageError as error:
        problem = f"The members cannot be read ({error})."
    checks.add("template", fine=f"{settings.sign_in_template} exists.", problem=problem or "")


async def _providers(settings: Settings, checks: CheckReport) -> None:
    """Look whether people can sign in at the providers."""
    try:
        for name, problem in await check_providers(settings):
            fine = f"{name} answers and takes this server's secret."
            checks.add("sign-in", fine=fine, problem=problem or "")
    except ConfigError as error:
        checks.add("sign-in", problem=str(error))
