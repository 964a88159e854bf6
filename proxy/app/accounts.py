"""The accounts of Comfy Cloud, with clients that can be called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from yarl import URL

from proxy.app.process import Process, read_at_start
from proxy.app.storage import OpenStorage
from proxy.cloud.client import CloudClient
from proxy.cloud.observations import AccountObservations, Observations, identity_of
from proxy.cloud.resilience import CallGate, RateLimiter
from proxy.cloud.upstream import CloudDocuments, Upstream
from proxy.cloud.v2.catalog import NodeList
from proxy.cloud.v2.client import DeploymentClient
from proxy.engine.accounts import Account, Eligibility, Slots, best_first
from proxy.settings import AccountAccess
from proxy.storage.usage import ObservationRepository


@dataclass(frozen=True)
class CloudAccounts:
    """The accounts with clients that can be called, by name, the first one first.

    `key_sources` say where people set the key of each, `lists` where the node classes of a
    deployment are listed.
    """

    accounts: Mapping[str, Account]
    observations: Observations
    key_sources: Mapping[str, str]
    lists: Mapping[str, Path | URL]

    @property
    def clients(self) -> dict[str, Upstream]:
        """The client of each account."""
        return {name: account.cloud for name, account in self.accounts.items()}

    @property
    def first(self) -> Upstream:
        """The client of the first account."""
        return next(iter(self.accounts.values())).cloud

    def documents(self) -> list[CloudDocuments]:
        """Return what the catalog has beside node classes, of the accounts that have it, the best
        first."""
        found = (account.cloud.documents for account in self.best_first())
        return [documents for documents in found if documents is not None]

    def allowed(self, member: str) -> frozenset[str]:
        """Return the accounts that a member may use."""
        allowed = (
            name for name, account in self.accounts.items() if account.eligibility.allows(member)
        )
        return frozenset(allowed)

    def best_first(self, member: str | None = None) -> list[Account]:
        """Return the accounts in the order in which they should be asked."""
        return best_first(list(self.accounts.values()), member)


@asynccontextmanager
async def open_accounts(
    process: Process, storage: OpenStorage, accounts: Sequence[AccountAccess]
) -> AsyncIterator[CloudAccounts]:
    """Open a client for each account, and load what was observed of each."""
    async with AsyncExitStack() as stack:
        opened = {access.name: await _open_account(process, access, stack) for access in accounts}
        observations = Observations(
            ObservationRepository(storage.database),
            {
                identity_of(name, account.cloud.base_url): account.cloud.observations
                for name, account in opened.items()
            },
        )
        await read_at_start("The observations cannot be read", observations.load)
        stack.push_async_callback(observations.unwritten.close)
        storage.supervisor.keep(observations.unwritten.run, "write observations")
        storage.supervisor.keep(observations.run, "read observations")
        sources = {access.name: access.key_source for access in accounts}
        lists = {access.name: access.nodes for access in accounts if access.nodes is not None}
        yield CloudAccounts(opened, observations, sources, lists)


async def _open_account(process: Process, access: AccountAccess, stack: AsyncExitStack) -> Account:
    settings, timeouts = process.settings, process.timeouts
    kind: Callable[..., Upstream] = CloudClient
    if access.nodes is not None:
        kind = partial(DeploymentClient, nodes=NodeList(access.nodes))
    cloud = kind(
        access.base_url,
        access.key,
        retries=timeouts.retries,
        gate=CallGate(timeouts.breaker(), RateLimiter()),
        observations=AccountObservations(access.name, process.metrics),
    )
    await cloud.start()
    stack.push_async_callback(cloud.close)
    return Account(
        access.name,
        cloud,
        access.key,
        slots=Slots(access.slots or settings.slots),
        eligibility=Eligibility(
            access.members,
            cost=0 if access.nodes is None else 1,
            validates=cloud.capabilities.validates,
        ),
        kind="cloud" if access.nodes is None else "deployment",
    )
