"""`check`: whether everything that the proxy needs works."""

from __future__ import annotations

import asyncio
import logging
import platform
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from proxy import __version__
from proxy import logging as logs
from proxy.app.sign_in import check_providers, template_problem
from proxy.catalog.owners import parted
from proxy.cli.common import chosen_accounts
from proxy.cli.tables import print_json, say
from proxy.cloud.client import CloudClient
from proxy.cloud.connections import CloudAddresses
from proxy.cloud.errors import CloudError, CloudGarbage, CloudRefused, CloudUnauthorized
from proxy.cloud.event_socket import EventSocket
from proxy.cloud.observer import Observer
from proxy.cloud.resilience import RetryPolicy
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.client import DeploymentClient
from proxy.cloud.v2.releases import Releases
from proxy.files.blobs import BlobError, open_blobs
from proxy.members.directory import Directory
from proxy.observations import AccountObservations, identity_of
from proxy.settings import (
    AccountAccess,
    ConfigError,
    Settings,
    account_of,
    key_source,
    nodes_of,
    read_key,
)
from proxy.storage.database import FILE, Database, StorageError, open_sqlite
from proxy.storage.members import MemberRepository
from proxy.storage.start import (
    HEAD,
    has_database,
    is_usable,
    open_server,
    revision,
)
from proxy.storage.usage import FACT, Observation, ObservationRepository
from proxy.translate import codec
from proxy.translate.plans import AccountPlan

#: Seconds that the cloud has for each answer.
TIMEOUT = 10.0
_RETRIES = RetryPolicy(budget=TIMEOUT / 2, attempt_timeout=TIMEOUT)


class _ProblemError(Exception):
    """Raised when a check fails; the text says in one sentence what is wrong and what to do about
    it."""


def check(settings: Settings, *, as_json: bool) -> int:
    """Print what works and what does not. Returns 0 if everything does, 1 otherwise."""
    logs.configure()
    logging.disable(logging.CRITICAL)  # the lines themselves say what went wrong
    checks = CheckReport(quiet=as_json)
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
            "checks": checks.rows,
        }
        print_json(report)
    return 0 if checks.fine else 1


@dataclass
class CheckReport:
    """The results of the checks: a line for each on standard output, unless it is `quiet`."""

    quiet: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    account: str | None = None

    @property
    def fine(self) -> bool:
        """Whether nothing failed."""
        return all(row["ok"] for row in self.rows)

    def begin(self, account: str) -> None:
        """Begin the results of this account, one of several."""
        self.account = account
        self._print(f"account {account}")

    def add(self, what: str, *, fine: str = "", problem: str = "") -> bool:
        """Add the sentence about one check; returns whether it succeeded."""
        row = {"check": what, "ok": not problem, "message": problem or fine}
        self.rows.append({"account": self.account, **row} if self.account else row)
        self._print(f"{'FAILED' if problem else 'ok':<8}{what:<14}{problem or fine}")
        return not problem

    async def passes(self, what: str, look: Awaitable[str]) -> bool:
        """Run one check; `look` gives a sentence or raises `_ProblemError`."""
        try:
            return self.add(what, fine=await look)
        except _ProblemError as problem:
            return self.add(what, problem=str(problem))

    def _print(self, line: str) -> None:
        if not self.quiet:
            say(line)


async def _check(settings: Settings, checks: CheckReport) -> None:
    if settings.simulate:
        async with chosen_accounts(settings) as chosen:
            await _check_accounts([(account, "") for account in chosen.accounts], checks)
    else:
        await _check_accounts(_accounts(settings), checks)
    checks.account = None
    await checks.passes("data folder", _data_folder(settings.data_dir))
    if settings.database is None or await checks.passes("database", _database(settings)):
        await _anomalies(settings, checks)
        await _template(settings, checks)
    await _providers(settings, checks)
    if settings.bus is not None:
        await checks.passes("bus", _bus(settings.bus.get_secret_value()))
    if settings.blobs is not None:
        await checks.passes("blobs", _blobs(settings, settings.blobs))


def _accounts(settings: Settings) -> list[tuple[AccountAccess, str]]:
    """Return all accounts of the settings, and why there is no usable key; else `""`."""
    found = []
    for table in settings.accounts or (None,):
        try:
            key = read_key(settings, table)
            problem = (
                "" if key else f"There is no API key: {_new_key(key_source(settings, table))}."
            )
        except ConfigError as error:
            key, problem = None, str(error)
        found.append((account_of(settings, table, key or ""), problem))
    return found


async def _check_accounts(accounts: list[tuple[AccountAccess, str]], checks: CheckReport) -> None:
    refused = []
    for account, problem in accounts:
        if len(accounts) > 1:
            checks.begin(account.name)
        if account.nodes is not None:
            await _check_deployment(account, problem, checks)
        elif await _check_account(account, problem, checks):
            refused.append(account.name)
    checks.account = None
    if refused:
        checks.add(
            "billing",
            fine="The cloud does not tell this key what it books and what is left. Enter a balance "
            f"if you need one: comfy-cloud-proxy balance {refused[0]} CREDITS.",
        )
    cloud = [account for account, _ in accounts if account.nodes is None]
    same = Counter(account.key for account in cloud if account.key)
    if any(count > 1 for count in same.values()):
        names = " and ".join(account.name for account in cloud if same[account.key] > 1)
        checks.add("accounts", problem=f"{names} have the same key: remove all but one of them.")


async def _check_account(account: AccountAccess, missing: str, checks: CheckReport) -> bool:
    """Check an account; return whether the cloud refuses to tell its key what it books."""
    client = CloudClient(
        account.base_url,
        account.key,
        retries=_RETRIES,
        plain_http=account.plain_http,
    )
    await client.start()
    try:
        if not await checks.passes("cloud", _reachable(client)):
            not_tried = "Not tested, because the cloud does not answer."
            checks.add("key", problem=missing or not_tried)
            checks.add("event socket", problem=not_tried)
            return False
        if missing:
            checks.add("key", problem=missing)
        if missing or not await checks.passes("key", _key_works(client, account)):
            checks.add("event socket", problem="Not tested, because it needs a valid key.")
            return False
        checks.add("plan", fine=_plan_sentence(await client.billing.plan()))
        await checks.passes("event socket", _socket_opens(account))
        return await client.billing.access() == "refused"
    finally:
        await client.close()


async def _check_deployment(account: AccountAccess, missing: str, checks: CheckReport) -> None:
    """Check a deployment and its list of nodes. Nothing is started, and no job is sent."""
    assert account.nodes is not None  # noqa: S101 (by the kind of the account)
    nodes = NodeList(account.nodes)
    await checks.passes("nodes", _nodes_listed(nodes))
    if missing:
        checks.add("key", problem=missing)
        return
    client = DeploymentClient(
        account.base_url,
        account.key,
        nodes,
        retries=_RETRIES,
        plain_http=account.plain_http,
    )
    await client.start()
    try:
        await checks.passes("deployment", _deployment_answers(client, account))
    finally:
        await client.close()


async def _nodes_listed(nodes: NodeList) -> str:
    try:
        classes, _ = parted(await nodes.read())
    except (CloudError, ValueError) as error:
        raise _ProblemError(
            f"There is no list of nodes ({error}): save it with comfy-cloud-proxy catalog save "
            "http://127.0.0.1:8188 object_info.json."
        ) from None
    return f"{len(classes):,} node classes in {nodes.place}."


async def _deployment_answers(client: DeploymentClient, account: AccountAccess) -> str:
    address = str(client.base_url).rstrip("/")
    try:
        await client.check_key()
    except CloudUnauthorized:
        new_key = _new_key(account.key_source)
        raise _ProblemError(
            f"{address} does not know this key, which must be one of its workspace: {new_key}."
        ) from None
    except CloudRefused as error:
        raise _ProblemError(f"{address} refused the request ({error}).") from None
    except CloudError as error:
        raise _ProblemError(
            f"{address} cannot be reached ({error}): check base_url of the account."
        ) from None
    return f"{address} accepts the key."


def _plan_sentence(plan: AccountPlan) -> str:
    """Return what the account says of its plan. An account that says nothing is no failure."""
    if sentence := plan.sentence():
        return f"{sentence}."
    return "The cloud does not say: the proxy discovers how many jobs run at once."


async def _reachable(client: CloudClient) -> str:
    address = str(client.base_url).rstrip("/")
    stranger = f"The server at {address} is not Comfy Cloud: correct COMFY_CLOUD_BASE_URL."
    try:
        stats = await client.system_stats()
        if not isinstance(stats.get("system"), dict):
            raise _ProblemError(stranger)
    except CloudRefused as error:
        if error.status >= 500:
            raise _ProblemError(
                f"{address} answers with status {error.status}: try again later."
            ) from None
        if error.status in (404, 405) or not isinstance(error.body, dict):
            raise _ProblemError(stranger) from None
    except CloudGarbage:
        raise _ProblemError(stranger) from None
    except CloudError as error:
        raise _ProblemError(
            f"{address} cannot be reached ({error}): check the network and COMFY_CLOUD_BASE_URL."
        ) from None
    return f"{address} answers."


async def _key_works(client: CloudClient, account: AccountAccess) -> str:
    try:
        await client.user()
        await client.plan()
    except CloudUnauthorized:
        new_key = _new_key(account.key_source)
        raise _ProblemError(f"The cloud does not know this key: {new_key}.") from None
    except CloudRefused as error:
        if error.status == 403:
            raise _ProblemError(
                "The key is valid, but its account needs a plan with API access (403): subscribe "
                "to Standard, Creator or Pro."
            ) from None
        raise _ProblemError(f"The cloud refused the request ({error}): try again later.") from None
    except CloudError as error:
        raise _ProblemError(f"The key could not be tested ({error}): try again later.") from None
    return "Key accepted."


def _new_key(place: str) -> str:
    use = f"set it as {place}" if place == "COMFY_CLOUD_API_KEY" else f"put it into {place}"
    return f"create one at https://platform.comfy.org and {use}"


async def _socket_opens(account: AccountAccess) -> str:
    addresses = CloudAddresses(account.base_url, plain_http=account.plain_http)
    socket = EventSocket(addresses, account.key, Observer())
    await socket.start()
    try:
        if await socket.wait_connected(TIMEOUT):
            return "Connected."
    finally:
        await socket.close()
    if socket.refused in (401, 403):
        new_key = _new_key(account.key_source)
        raise _ProblemError(f"The cloud refused the key ({socket.refused}): {new_key}.")
    raise _ProblemError(
        f"It did not open within {TIMEOUT:g} seconds: allow websockets to {account.base_url.host} "
        "in firewalls and proxies. Without it jobs run without progress and previews."
    )


async def _data_folder(folder: Path) -> str:
    def write() -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".check-") as file:
            file.write(b"comfy-cloud-proxy")
            file.flush()

    try:
        await asyncio.to_thread(write)
    except OSError as error:
        raise _ProblemError(
            f"{folder} is not writable ({error.strerror}): free disk space, correct its "
            "permissions or choose another with --data-dir."
        ) from None
    return f"{folder} is writable."


async def _database(settings: Settings) -> str:
    """Look at the PostgreSQL database, at both of its addresses, and change nothing."""
    schema, usable = None, True
    try:
        for direct in (False, True) if settings.database_direct is not None else (False,):
            database = await open_server(settings, direct=direct)
            try:
                schema = await database.read(revision)
                version = await database.read(_server_version)
                usable = await database.read(is_usable)
            finally:
                await database.close()
    except StorageError as error:
        raise _ProblemError(
            f"It cannot be used ({error}): start it, or correct COMFY_PROXY_DATABASE."
        ) from None
    if not usable:
        raise _ProblemError(
            f"It has the schema {schema}, which this version does not know: update the program."
        )
    tables = "has no tables yet" if schema is None else f"has the schema {schema}"
    return f"PostgreSQL {version} answers and {tables}."


def _server_version(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SHOW server_version").scalar_one()).split()[0]


async def _bus(address: str) -> str:
    try:
        from proxy.bus.valkey import BusError, ValkeyBus
    except ModuleNotFoundError:
        raise _ProblemError("It needs the extra `cluster`: install the package with it.") from None
    try:
        await ValkeyBus(address).check()
    except BusError as error:
        raise _ProblemError(
            f"It cannot be used ({error}): start it, or correct COMFY_PROXY_BUS."
        ) from None
    return "The server takes messages."


async def _blobs(settings: Settings, place: str) -> str:
    try:
        store = open_blobs(place, endpoint=settings.blobs_endpoint, region=settings.blobs_region)
        try:
            await store.check()
        finally:
            await store.close()
    except BlobError as error:
        raise _ProblemError(f"They cannot be used ({error}): correct COMFY_PROXY_BLOBS.") from None
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
            "output of comfy-cloud-proxy probe --level run.",
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
