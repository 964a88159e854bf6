"""Opens the accounts of the settings: to each its own client, event socket, slots and health."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from proxy.accounts.account import Account
from proxy.accounts.slots import Slots
from proxy.cloud.client import CloudClient
from proxy.cloud.event_socket import EventSocket
from proxy.metrics import Metrics
from proxy.settings import AccountAccess
from proxy.timeouts import Timeouts


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears an account's event socket, and whether it should be heard: see `EventSocket`."""

    on_event: Callable[[str, dict[str, Any]], None]
    on_frame: Callable[[bytes], None]
    on_up: Callable[[], None]
    on_down: Callable[[], None]
    due: Callable[[], bool]


@asynccontextmanager
async def opened(
    accounts: Iterable[AccountAccess],
    timeouts: Timeouts,
    ears: Callable[[str], Ears],
    *,
    metrics: Metrics,
    slots: int = 0,
    ahead: int = 0,
) -> AsyncIterator[list[Account]]:
    """The accounts with clients that can be called, closed behind the block.

    Their sockets are not connected before `listening`. `ears` gives those of an account by name.
    `slots` is how many jobs an account runs that does not say it, `ahead` how many more it may be
    sent.
    """
    async with AsyncExitStack() as stack:
        found = []
        for access in accounts:
            account = _made(
                access, timeouts, ears(access.name), Slots(access.slots or slots, ahead), metrics
            )
            await account.cloud.start()
            stack.push_async_callback(account.cloud.close)
            found.append(account)
        yield found


@asynccontextmanager
async def listening(accounts: Iterable[Account]) -> AsyncIterator[None]:
    """Keep the event sockets connected for as long as the block runs."""
    async with AsyncExitStack() as stack:
        for account in accounts:
            await account.socket.start()
            stack.push_async_callback(account.socket.close)
        yield


def _made(
    access: AccountAccess, timeouts: Timeouts, ears: Ears, slots: Slots, metrics: Metrics
) -> Account:
    cloud = CloudClient(
        access.base_url,
        access.key,
        retries=timeouts.retries,
        breaker=timeouts.breaker(),
        plain_http=access.plain_http,
        calls=metrics.calls(access.name),
    )
    socket = EventSocket(
        access.base_url,
        access.key,
        on_event=ears.on_event,
        on_frame=ears.on_frame,
        on_up=ears.on_up,
        on_down=ears.on_down,
        due=ears.due,
        heartbeat=timeouts.heartbeat,
        watchdog=timeouts.watchdog(),
        backoff=timeouts.socket_backoff,
        plain_http=access.plain_http,
    )
    return Account(
        access.name,
        cloud,
        socket,
        access.key,
        slots=slots,
        weight=access.weight,
        members=access.members,
    )
