"""The composition root: opens every room, joins them, and closes them in the right order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from proxy.api import web_interface
from proxy.api.keys import Services
from proxy.api.web_interface import WebInterface
from proxy.app.accounts import open_accounts
from proxy.app.handlers import open_api
from proxy.app.jobs import open_jobs, run_engine
from proxy.app.process import Process, policy_of
from proxy.app.resources import open_resources
from proxy.app.storage import open_storage
from proxy.app.webhooks import open_webhooks
from proxy.budget import MemoryBudget
from proxy.cloud.event_socket import Timeouts
from proxy.engine.policy import Policy
from proxy.metrics import Metrics
from proxy.settings import AccountAccess, AccountKeys, Settings


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
    """Start all services over the accounts, and close them in the opposite order.

    `policy` replaces that of the settings. When `reread_keys` is set the keys are read again.
    Without an `interface` the one that is installed is served. `failed` is set when background
    work cannot be kept up.
    Raises `ConfigError` when the data folder cannot be used.
    """
    process = Process(
        settings,
        timeouts or Timeouts(),
        policy or policy_of(settings),
        failed or asyncio.Event(),
        Metrics(),
        MemoryBudget(settings.memory_bytes),
    )
    async with (
        open_storage(process) as storage,
        open_accounts(process, storage, accounts) as cloud,
        open_resources(process, storage, cloud) as resources,
        open_jobs(process, storage, resources) as jobs,
        open_webhooks(process, storage, jobs) as webhooks,
        run_engine(process, storage, cloud, resources, jobs, webhooks.runner) as election,
    ):
        if not settings.simulate:
            keys = AccountKeys(
                settings,
                accounts,
                election.use_key,
                asked=reread_keys or asyncio.Event(),
                interval=process.timeouts.key_interval,
            )
            storage.supervisor.keep(keys.follow, "follow the keys")
        interface = web_interface.installed() if interface is None else interface
        async with open_api(
            process, storage, cloud, resources, jobs, webhooks.endpoints, election, interface
        ) as services:
            yield services
