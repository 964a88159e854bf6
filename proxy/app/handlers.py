"""What the handlers of the api stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import WSCloseCode

from proxy import logging as logs
from proxy.admin.metrics import Gauges
from proxy.api import ApiOptions
from proxy.api.journal import Journal
from proxy.api.keys import (
    ACCOUNTING,
    ASSETS,
    BALANCES,
    BUDGET,
    CATALOG,
    CIPHER,
    FILES,
    HISTORY,
    INTERFACE,
    JOBS,
    JOURNAL,
    LOOP_TURNS,
    MEMBERS,
    OBSERVATIONS,
    OPTIONS,
    PACKS,
    POOLS,
    PROVIDERS,
    READINESS,
    SPOOL,
    STREAMS,
    SUPERVISOR,
    TURNS,
    USERDATA,
    WEBHOOKS,
    Services,
)
from proxy.api.readiness import Readiness
from proxy.api.spool import Spool
from proxy.api.web_interface import WebInterface
from proxy.app.accounts import CloudAccounts
from proxy.app.process import Process
from proxy.app.resources import Resources
from proxy.app.sign_in import header_sign_in, open_providers
from proxy.app.storage import OpenStorage
from proxy.cloud.key_checks import KeyChecks
from proxy.costs.balances import Balances
from proxy.files.asset_learner import AssetLearner
from proxy.files.assets import Assets
from proxy.files.exports import Exports
from proxy.jobs.service import JobService
from proxy.members.directory import Directory
from proxy.metrics import Metrics
from proxy.packs.notices import Notices
from proxy.packs.pack import PackServices
from proxy.packs.workflows import WorkflowExchange
from proxy.settings import Settings
from proxy.sharing.pool import Pool
from proxy.storage.assets import AssetRepository
from proxy.storage.balances import BalanceRepository
from proxy.storage.temporary import ExportRepository
from proxy.storage.workflows import WorkflowRepository
from proxy.webhooks.endpoints import Webhooks

#: Websockets and streams that a member may have of the part that is kept for those who have few.
MIN_STREAMS = 4


@asynccontextmanager
async def open_api(
    process: Process,
    storage: OpenStorage,
    cloud: CloudAccounts,
    resources: Resources,
    jobs: JobService,
    webhooks: Webhooks,
    interface: WebInterface,
) -> AsyncIterator[Services]:
    """Join what the handlers of the api need."""
    settings, database, supervisor = process.settings, storage.database, storage.supervisor
    journal = Journal(jobs.subscribers)
    notices = Notices(process.budget)
    readiness = Readiness(
        database,
        jobs.accounts,
        KeyChecks(cloud.clients, cloud.key_sources),
        resources.files.output_directory,
        max_age=process.timeouts.ready_age,
    )
    workflows = WorkflowExchange(WorkflowRepository(database), jobs.subscribers.publish, supervisor)
    members = storage.members
    spool = Spool(settings.max_upload_bytes)
    streams = Pool(settings.max_connections // 2, MIN_STREAMS)
    pools = {"streams": streams, "temporary_bytes": spool.pool}
    gauges = Gauges(
        jobs,
        jobs.accounts,
        resources.files.cache,
        process.budget,
        pools,
        members.names,
    )
    _register(process.metrics, gauges, members, cloud)
    packs = PackServices(
        resources.pictures, resources.catalog, resources.userdata, workflows, notices
    )
    services = Services()
    services[JOBS] = jobs
    services[FILES] = resources.files
    services[CATALOG] = resources.catalog
    services[USERDATA] = resources.userdata
    services[MEMBERS] = storage.members
    services[WEBHOOKS] = webhooks
    services[ACCOUNTING] = resources.accounting
    services[BALANCES] = Balances(BalanceRepository(database), cloud.accounts)
    services[HISTORY] = jobs.submissions.repository.history
    services[OBSERVATIONS] = cloud.observations
    services[READINESS] = readiness
    services[JOURNAL] = journal
    services[INTERFACE] = interface
    services[CIPHER] = storage.cipher
    services[SUPERVISOR] = supervisor
    services[BUDGET] = process.budget
    services[LOOP_TURNS] = process.loop_turns
    services[SPOOL] = spool
    services[STREAMS] = streams
    services[POOLS] = pools
    services[ASSETS] = _assets(process, storage, resources, jobs)
    services[PACKS] = packs
    services[OPTIONS] = _api_options(settings)
    services[TURNS] = process.turns
    try:
        async with open_providers(settings, database) as providers:
            with logs.forwarded_lines(journal.add):
                services[PROVIDERS] = providers
                yield services
    finally:
        process.metrics.registry.unregister(gauges)
        notices.close()
        await readiness.close()


def _assets(
    process: Process, storage: OpenStorage, resources: Resources, jobs: JobService
) -> Assets:
    send = jobs.subscribers.broadcast
    repository = AssetRepository(storage.database)
    common = repository, resources.files, storage.supervisor
    exports = Exports(*common, ExportRepository(storage.database), send, process.budget)
    learner = AssetLearner(*common)
    return Assets(repository, exports, resources.files, resources.catalog, send, learner)


def _register(metrics: Metrics, gauges: Gauges, members: Directory, cloud: CloudAccounts) -> None:
    """Export the gauges, and from now on the series of all members and accounts."""
    metrics.registry.register(gauges)

    def expect() -> None:
        metrics.expect(members.names(), cloud.accounts)

    expect()
    members.subscribe(expect)


def _api_options(settings: Settings) -> ApiOptions:
    has_standbys = settings.database is not None
    return ApiOptions(
        base_path=settings.base_path,
        trusted_proxies=settings.trusted_proxies,
        header_sign_in=header_sign_in(settings),
        allowed_hosts=settings.allowed_hosts,
        max_upload_bytes=settings.max_upload_bytes,
        cors_origins=settings.cors_origins,
        close_code=WSCloseCode.SERVICE_RESTART if has_standbys else WSCloseCode.GOING_AWAY,
        pays_partner_nodes=settings.send_partner_key,
        admin_apart=settings.admin_listen is not None,
        simulated=settings.simulate,
    )
