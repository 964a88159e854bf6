"""The composition root: opens every room, joins them, and closes them in the right order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from proxy.api import web_interface
from proxy.api.keys import Services
from proxy.api.web_interface import WebInterface
from proxy.app.accounts import open_accounts
from proxy.app.handlers import open_api
from proxy.app.jobs import open_jobs, run_engine, service_of
from proxy.app.leadership import leadership_of
from proxy.app.process import Process, policy_of
from proxy.app.resources import open_resources
from proxy.app.storage import Records, open_records, open_storage
from proxy.app.webhooks import open_webhooks
from proxy.cloud.event_socket import Timeouts
from proxy.engine.policy import Policy
from proxy.engine.term import Term
from proxy.leader.handover import Handover
from proxy.metrics import Metrics
from proxy.settings import AccountAccess, AccountKeys, Settings
from proxy.sharing.budget import MemoryBudget


@asynccontextmanager
async def lifespan(
    settings: Settings,
    *,
    accounts: Sequence[AccountAccess],
    policy: Policy | None = None,
    timeouts: Timeouts | None = None,
    interface: WebInterface | None = None,
) -> AsyncIterator[Services]:
    """Lead as soon as nobody else does, and close all services at the end of the block.

    `policy` replaces that of the settings. Without an `interface` the one that is installed is
    served. Raises `ConfigError` when the data folder cannot be used.
    """
    failed = asyncio.Event()
    async with open_records(settings, failed) as records:
        leadership = leadership_of(records)
        term = await leadership.elected()
        process = new_process(settings, failed, timeouts, policy)
        async with (
            leadership.leading(term),
            lead(process, records, term, accounts=accounts, interface=interface) as services,
        ):
            yield services


def new_process(
    settings: Settings,
    failed: asyncio.Event,
    timeouts: Timeouts | None = None,
    policy: Policy | None = None,
    metrics: Metrics | None = None,
) -> Process:
    """Return what every part of a process is given; `failed` is set when background work cannot be
    kept up."""
    return Process(
        settings,
        timeouts or Timeouts(),
        policy or policy_of(settings),
        failed,
        metrics or Metrics(),
        MemoryBudget(settings.memory_bytes),
    )


@asynccontextmanager
async def lead(
    process: Process,
    records: Records,
    term: Term,
    *,
    accounts: Sequence[AccountAccess],
    reread_keys: asyncio.Event | None = None,
    interface: WebInterface | None = None,
    handover: Handover | None = None,
) -> AsyncIterator[Services]:
    """Start all services of a leader over the accounts, and close them in the opposite order.

    When `reread_keys` is set the keys are read again. The `handover` ends the term where a standby
    reaches the cloud and this process does not. Raises `ConfigError`.
    """
    async with (
        open_storage(process, records) as storage,
        open_accounts(process, storage, accounts) as cloud,
        open_resources(process, storage, cloud) as resources,
        open_webhooks(process, storage) as webhooks,
        AsyncExitStack() as stack,
    ):
        jobs = open_jobs(process, storage, resources, webhooks.runner.outbox)
        engine = await stack.enter_async_context(
            run_engine(process, storage, cloud, resources, jobs, webhooks.runner, term)
        )
        service = service_of(process, storage, resources, jobs, engine, term)
        if handover is not None:
            contacts = [account.cloud.contact for account in cloud.accounts.values()]
            storage.supervisor.spawn(handover.look(term, contacts), "find a successor")
        if not process.settings.simulate:
            keys = AccountKeys(
                process.settings,
                accounts,
                engine.use_key,
                asked=reread_keys or asyncio.Event(),
                interval=process.timeouts.key_interval,
            )
            storage.supervisor.keep(keys.follow, "follow the keys")
        interface = web_interface.installed() if interface is None else interface
        async with open_api(
            process, storage, cloud, resources, service, webhooks.endpoints, interface
        ) as services:
            yield services
