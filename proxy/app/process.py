"""What every part of the process is given."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from proxy.budget import MemoryBudget
from proxy.cloud.event_socket import Timeouts
from proxy.engine.policy import Policy
from proxy.metrics import Metrics
from proxy.settings import ConfigError, Settings
from proxy.storage.database import StorageError
from proxy.turns import Turns, thread_turns


@dataclass(frozen=True)
class Process:
    """What every part of the process is given; `turns` are those of members at work on JSON and
    graphs."""

    settings: Settings
    timeouts: Timeouts
    policy: Policy
    failed: asyncio.Event
    metrics: Metrics
    budget: MemoryBudget
    turns: Turns = field(default_factory=thread_turns)


@contextmanager
def config_errors(what: str) -> Iterator[None]:
    """Turn a failure of the storage into a `ConfigError` with a sentence."""
    try:
        yield
    except StorageError as error:
        raise ConfigError(f"{what}: {error}.") from error


def policy_of(settings: Settings) -> Policy:
    return Policy(
        send_partner_key=settings.send_partner_key,
        history_size=settings.history_size,
        fair_by=settings.fair_by,
        client_parallelism=settings.client_parallelism,
        unable_timeout=settings.unable_timeout,
        lost_timeout=settings.lost_timeout,
    )
