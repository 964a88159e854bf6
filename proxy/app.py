"""The composition root: makes every room, joins them, and takes them down in the right order."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import structlog
from aiohttp import WSCloseCode

from proxy import logging as logs
from proxy.api import Services, web_interface
from proxy.api.records import Gauges
from proxy.api.web_interface import Journal, WebInterface
from proxy.budget import MemoryBudget
from proxy.bus import EventBus
from proxy.catalog.service import Catalog
from proxy.catalog.source import Accounts
from proxy.cloud.client import CloudClient
from proxy.cloud.event_socket import Timeouts
from proxy.engine.accounts import Account, Slots, best_first
from proxy.engine.election import Election
from proxy.engine.engine import Engine
from proxy.engine.policy import Policy
from proxy.engine.recorder import JobRecorder
from proxy.engine.replay import life_of
from proxy.engine.term import Term
from proxy.files.assets import Assets
from proxy.files.blobs import BlobError, BlobStore, open_blobs
from proxy.files.service import Files
from proxy.jobs.models import MembersChanged
from proxy.jobs.service import JobService, Sampler
from proxy.jobs.submission import Checks, Clients, SubmissionService
from proxy.jobs.views import LiveJobs
from proxy.members.accounting import Accounting
from proxy.members.directory import Directory, marker_of
from proxy.metrics import AccountObservations, Metrics, Observations, identity_of
from proxy.packs.notes import Notes
from proxy.packs.remote import RemoteFiles
from proxy.packs.service import MAX_FILE_BYTES, Helpers
from proxy.packs.table import offered
from proxy.packs.workflows import WorkflowExchange
from proxy.readiness import Readiness
from proxy.settings import AccountAccess, AccountKeys, ConfigError, Settings, read_secrets
from proxy.storage.assets import AssetRepository
from proxy.storage.database import FILE, Database, StorageError
from proxy.storage.encryption import SECRET_FILE, Cipher, follow_secrets, stored_secrets
from proxy.storage.files import FileRepository
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import LeaseRepository
from proxy.storage.members import MemberRepository
from proxy.storage.start import locked_folder, migrate_server, open_folder, open_server
from proxy.storage.temporary import ExportRepository, HelperPictureRepository
from proxy.storage.usage import ActivityRepository, ObservationRepository, UsageRepository
from proxy.storage.workflows import WorkflowRepository
from proxy.supervisor import Supervisor
from proxy.userdata.on_cloud import UserData, UserDataOnCloud
from proxy.userdata.stored import StoredUserData

log = structlog.get_logger(__name__)

#: How long a start waits for the bus (seconds), which is not needed to serve.
_BUS_PATIENCE = 5.0


@asynccontextmanager
async def lifespan(
    settings: Settings,
    *,
    accounts: Sequence[AccountAccess],
    policy: Policy | None = None,
    timeouts: Timeouts | None = None,
    reread_keys: asyncio.Event | None = None,
    interface: WebInterface | None = None,
    failed: asyncio.Event | None = None,
) -> AsyncIterator[Services]:
    """All services over the accounts, started; closed in the opposite order behind the block.

    `policy` replaces that of the settings. When `reread_keys` is set the keys are read again.
    Without an `interface` the one that is installed is served. `failed` is set when background
    work cannot be kept up.
    Raises `ConfigError` when the data folder cannot be used.
    """
    timeouts = timeouts or Timeouts()
    metrics = Metrics()
    budget = MemoryBudget(settings.memory_bytes)
    failed = failed or asyncio.Event()
    async with AsyncExitStack() as stack:
        path = stack.enter_context(locked_folder(settings.data_dir))
        database = await _open_database(settings, path)
        stack.push_async_callback(database.close)
        supervisor = Supervisor(failed)
        stack.push_async_callback(supervisor.close)
        supervisor.keep(database.watch, "watch the database")
        members = Directory(MemberRepository(database), marker=marker_of(settings))
        with _told("The members cannot be read"):
            await members.load()
        stack.push_async_callback(members.close)
        refuse_lost_members(settings, has_members=members.has_members)
        members.start(supervisor)
        opened = await stack.enter_async_context(_accounts(settings, accounts, timeouts, metrics))
        cloud, by_name = opened[0].cloud, {account.name: account for account in opened}
        observations = Observations(
            ObservationRepository(database),
            {identity_of(one.name, one.cloud.base_url): one.cloud.observations for one in opened},
        )
        await observations.load()
        stack.push_async_callback(observations.close)
        supervisor.keep(observations.run, "keep observations")
        blobs = _open_blobs(settings)
        if blobs is not None:
            stack.push_async_callback(blobs.close)
        files = Files(
            FileRepository(database),
            {account.name: account.cloud for account in opened},
            path / "files",
            cache_bytes=settings.cache_bytes,
            prefetch=settings.prefetch if settings.database is None else "off",
            preferred=lambda member: [account.name for account in best_first(opened, member)],
            asset_ids=settings.assets,
            blobs=blobs,
        )
        await files.start()
        stack.push_async_callback(files.close)
        source = Accounts(cloud.base_url, lambda: [one.cloud for one in best_first(opened)])
        catalog = Catalog(
            source,
            path / "catalog",
            max_age=settings.catalog_max_age,
            helpers=partial(offered, preferred=settings.prefer_helper_nodes)
            if settings.helper_nodes
            else None,
        )
        await catalog.start()
        stack.push_async_callback(catalog.close)
        remote = RemoteFiles(settings.url_hosts, max_bytes=MAX_FILE_BYTES)
        await remote.start()
        stack.push_async_callback(remote.close)
        helpers = Helpers(HelperPictureRepository(database), files, catalog, remote, budget)
        userdata: UserData = StoredUserData(database)
        if settings.userdata == "cloud":
            if members.has_members:
                raise ConfigError(
                    "userdata = cloud does not support members: set it to disk, or remove the "
                    "members."
                )
            userdata = UserDataOnCloud(cloud.http, shared=lambda: members.has_members)
        accounting = Accounting(
            metrics, UsageRepository(database), members.get, audit_days=settings.audit_days
        )
        await stack.enter_async_context(accounting.running(supervisor))
        checks = Checks(
            catalog,
            files,
            members,
            helpers,
            validates=settings.validate_graphs,
            patience=timeouts.catalog_patience,
        )
        bus = await _open_bus(settings, supervisor)
        stack.push_async_callback(bus.close)
        policy = policy or _policy(settings)
        cipher = await _cipher(settings, database, path, supervisor)
        repository = JobRepository(database, cipher)
        clients = Clients(policy.client_parallelism)
        submissions = SubmissionService(
            bus=bus,
            repository=repository,
            live=LiveJobs(bus, repository, supervisor, budget),
            clients=clients,
            member=members.get,
            limiter=accounting.limiter,
            checks=checks,
            patience=policy.submit_patience,
        )
        jobs = JobService(
            submissions,
            supervisor,
            files=files,
            replay=life_of,
            status_interval=policy.status_interval,
        )
        activity = ActivityRepository(database)
        journal = Journal(bus, clients)
        stack.enter_context(logs.lines_told(journal.add))

        def engine(term: Term) -> Engine:
            return Engine(
                recorder=JobRecorder(repository, term, history_size=policy.history_size),
                bus=bus,
                accounts=by_name,
                files=files,
                catalog=catalog,
                helpers=helpers,
                policy=policy,
                timeouts=timeouts,
                member=members.get,
                supervisor=Supervisor(failed),
                metrics=metrics,
            )

        election = Election(
            LeaseRepository(database),
            bus,
            engine,
            by_name,
            holder=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            length=settings.engine_lease,
            alone=settings.database is None,
        )
        members.subscribe(lambda: bus.publish("members", MembersChanged()))
        stack.push_async_callback(election.leave)
        with _told("The jobs cannot be read"):
            await election.start(supervisor)
            await jobs.start()
        if not settings.simulate:
            keys = AccountKeys(
                settings,
                accounts,
                election.use_key,
                asked=reread_keys or asyncio.Event(),
                interval=timeouts.key_interval,
            )
            supervisor.keep(keys.follow, "follow the keys")
        readiness = Readiness(
            database,
            election,
            {name: account.cloud for name, account in by_name.items()},
            max_age=timeouts.ready_age,
        )
        stack.push_async_callback(readiness.close)
        metrics.registry.register(Gauges(jobs, election, files.cache, budget))
        sampler = Sampler(activity, jobs.accounts, is_active=election.is_active)
        supervisor.keep(sampler.run, "sample the activity")
        notes = Notes(bus, budget)
        stack.callback(notes.close)
        workflows = WorkflowExchange(
            WorkflowRepository(database), bus, jobs.subscribers.tell, supervisor
        )
        yield Services(
            jobs=jobs,
            files=files,
            catalog=catalog,
            userdata=userdata,
            history=repository.history,
            activity=activity,
            journal=journal,
            bus=bus,
            members=members,
            base_path=settings.base_path,
            trusted_proxies=settings.trusted_proxies,
            max_upload_bytes=settings.max_upload_bytes,
            max_json_bytes=settings.max_json_bytes,
            cors_origins=settings.cors_origins,
            compress=settings.compress,
            readiness=readiness,
            close_code=WSCloseCode.SERVICE_RESTART if database.shared else WSCloseCode.GOING_AWAY,
            ping_interval=settings.ping_interval,
            pays_partner_nodes=settings.send_partner_key,
            interface=web_interface.installed() if interface is None else interface,
            accounting=accounting,
            metrics_shown=settings.metrics,
            admin_apart=settings.admin_listen is not None,
            simulated=settings.simulate,
            observations=observations,
            cipher=cipher,
            supervisor=supervisor,
            budget=budget,
            assets=Assets(
                AssetRepository(database),
                ExportRepository(database),
                files,
                catalog,
                bus,
                jobs.subscribers.broadcast,
                supervisor,
            )
            if settings.assets
            else None,
            helpers=helpers if settings.helper_nodes else None,
            workflows=workflows if settings.helper_nodes else None,
            notes=notes if settings.helper_nodes else None,
        )


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
    if settings.require_members:
        raise ConfigError(f"require_members is set and there are no members: {add}.")
    if settings.trusted_proxies and not settings.insecure_allow_anyone:
        raise ConfigError(
            f"trusted_proxies is set and there are no members, so anyone who reaches the reverse "
            f"proxy could use this proxy: {add}, or add --insecure-allow-anyone if the reverse "
            "proxy authenticates users."
        )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell what went wrong when the records cannot be used. Raises `ConfigError`."""
    try:
        yield
    except StorageError as error:
        raise ConfigError(f"{what}: {error}.") from error


async def _open_database(settings: Settings, folder: Path) -> Database:
    with _told("The records cannot be opened"):
        if settings.database is not None:
            await migrate_server(settings)
            return await open_server(settings)
        return await open_folder(folder, start_empty=settings.start_empty)


def _open_blobs(settings: Settings) -> BlobStore | None:
    if settings.blobs is None:
        return None
    try:
        return open_blobs(
            settings.blobs, endpoint=settings.blobs_endpoint, region=settings.blobs_region
        )
    except BlobError as error:
        raise ConfigError(f"The setting blobs cannot be used: {error}.") from error


async def _open_bus(settings: Settings, supervisor: Supervisor) -> EventBus:
    if settings.bus is None:
        return EventBus()
    from proxy.bus.valkey import ValkeyBus  # redis is not installed everywhere

    bus = ValkeyBus(settings.bus.text)
    supervisor.keep(bus.run, "bus")
    await bus.until_connected(_BUS_PATIENCE)
    return bus


async def _cipher(
    settings: Settings, database: Database, folder: Path, supervisor: Supervisor
) -> Cipher:
    secret = read_secrets(settings)
    cipher = Cipher(folder / SECRET_FILE, secret=secret)
    if secret is None and database.shared:
        cipher.use(await stored_secrets(database))
        supervisor.keep(partial(follow_secrets, database, cipher), "follow the secrets")
    return cipher


@asynccontextmanager
async def _accounts(
    settings: Settings, accounts: Sequence[AccountAccess], timeouts: Timeouts, metrics: Metrics
) -> AsyncIterator[list[Account]]:
    """The accounts of the settings with clients that can be called."""
    async with AsyncExitStack() as stack:
        opened = []
        for access in accounts:
            cloud = CloudClient(
                access.base_url,
                access.key,
                retries=timeouts.retries,
                breaker=timeouts.breaker(),
                plain_http=access.plain_http,
                calls=metrics.calls(access.name),
                observations=AccountObservations(access.name, metrics),
            )
            await cloud.start()
            stack.push_async_callback(cloud.close)
            opened.append(
                Account(
                    access.name,
                    cloud,
                    access.key,
                    slots=Slots(access.slots or settings.slots, settings.slots_ahead),
                    weight=access.weight,
                    members=access.members,
                    plain_http=access.plain_http,
                )
            )
        yield opened


def _policy(settings: Settings) -> Policy:
    return Policy(
        send_partner_key=settings.send_partner_key,
        history_size=settings.history_size,
        fair_by=settings.fair_by,
        client_parallelism=settings.client_parallelism,
        unable_timeout=settings.unable_timeout,
        lost_timeout=settings.lost_timeout,
    )
