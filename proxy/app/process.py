"""What every part of the process is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from proxy.cloud.event_socket import Timeouts
from proxy.engine.policy import Policy
from proxy.metrics import Metrics
from proxy.settings import ConfigError, Settings
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.loop_turns import LoopTurns
from proxy.sharing.turns import Turns, thread_turns
from proxy.storage.database import StorageError
from proxy.storage.start import at_start

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """What every part of the process is given; `turns` are those of members at work on JSON and
    graphs, `loop_turns` those of the event loop."""

    settings: Settings
    timeouts: Timeouts
    policy: Policy
    failed: asyncio.Event
    metrics: Metrics
    budget: MemoryBudget
    turns: Turns = field(default_factory=thread_turns)
    loop_turns: LoopTurns = field(default_factory=LoopTurns)


async def read_at_start(what: str, call: Callable[[], Awaitable[T]]) -> T:
    """Return the result of a call that a start needs (see `proxy.storage.start.at_start`). Raises
    `ConfigError`, which says `what` cannot be done and why."""
    try:
        return await at_start(call)
    except StorageError as error:
        raise ConfigError(f"{what}: {error}.") from error


def policy_of(settings: Settings) -> Policy:
    return Policy(
        send_partner_key=settings.send_partner_key,
        fair_by=settings.fair_by,
        client_parallelism=settings.client_parallelism,
    )
