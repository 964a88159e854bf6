"""An account: its key, its plan, and all that belongs to it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from uuid import uuid4

from proxy.simulator.assets import AssetLibrary
from proxy.simulator.execution import NodeCache
from proxy.simulator.jobs import SimulatedJob

Plan: TypeAlias = Literal["free", "standard", "creator", "pro", "team"]

#: Jobs at once by plan. The free plan has no access by API.
SLOTS: dict[Plan, int] = {"free": 1, "standard": 1, "creator": 3, "pro": 5, "team": 25}


@dataclass(eq=False)
class SimulatedAccount:
    """Who has the key. `credits` are the submissions that are still paid for, `None` any number.

    `balance_cents` is what the routes of billing show, `events_elsewhere` what they show beside the
    account's jobs: other keys and sessions, and payments. `imports` are the models of the account's
    own by folder. All of this may be changed at any time.
    """

    key: str
    plan: Plan = "standard"
    credits: int | None = None
    balance_cents: int = 1234
    events_elsewhere: list[dict[str, Any]] = field(default_factory=list)
    imports: dict[str, tuple[str, ...]] = field(default_factory=dict)
    user_id: str = field(default_factory=lambda: f"user_{uuid4().hex[:20]}")
    workspace_id: str = field(default_factory=lambda: f"ws_{uuid4().hex[:20]}")
    jobs: dict[str, SimulatedJob] = field(default_factory=dict)
    library: AssetLibrary = field(default_factory=AssetLibrary)
    cache: NodeCache = field(default_factory=NodeCache)
    submitted: int = 0
    idempotency_keys: set[str] = field(default_factory=set)
    _counters: Counter[tuple[str, str]] = field(default_factory=Counter)
    _recent: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        if self.plan not in SLOTS:
            raise ValueError(f"unknown plan {self.plan!r}: use one of {', '.join(SLOTS)}")

    @property
    def slots(self) -> int:
        """How many jobs run at once."""
        return SLOTS[self.plan]

    def import_model(self, folder: str, name: str) -> None:
        """Add a model of the account's own to a folder."""
        self.imports = {**self.imports, folder: (*self.imports.get(folder, ()), name)}

    def next_number(self, kind: str, prefix: str) -> int:
        """Return the number of the next file with that type and prefix, from 1."""
        self._counters[kind, prefix] += 1
        return self._counters[kind, prefix]

    def over_rate(self, limit: int) -> bool:
        """Note a request; answers whether there were `limit` in the last second already."""
        now = time.monotonic()
        while self._recent and self._recent[0] <= now - 1.0:
            self._recent.popleft()
        if len(self._recent) >= limit:
            return True
        self._recent.append(now)
        return False


def offered_key(
    headers: Mapping[str, str], query: Mapping[str, str], *, in_headers: bool = True
) -> str | None:
    """Return the key in a request: `X-API-Key`, else `Authorization: Bearer`, else `token`.

    A header always wins, even when it cannot be read; that gives an empty key.
    """
    if in_headers and "X-API-Key" in headers:
        return headers["X-API-Key"].strip()
    if in_headers and "Authorization" in headers:
        scheme, _, value = headers["Authorization"].partition(" ")
        return value.strip() if scheme.lower() == "bearer" else ""
    return query.get("token")
