"""The accounts that the settings choose: at Comfy Cloud, or at a simulator in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from proxy.logging import register_secret
from proxy.settings import PLANS, AccountAccess, ConfigError, Settings, read_accounts, slots_of

if TYPE_CHECKING:
    from proxy.simulator import Simulator
    from proxy.simulator.account import Plan

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """At least one account, and whether it is simulated."""

    accounts: tuple[AccountAccess, ...]
    simulated: bool

    def __str__(self) -> str:
        name = "Comfy Cloud simulator" if self.simulated else "Comfy Cloud"
        urls = dict.fromkeys(str(account.base_url).rstrip("/") for account in self.accounts)
        count = len(self.accounts)
        return f"{f'{count} accounts of ' if count > 1 else ''}{name} at {' and '.join(urls)}"


@asynccontextmanager
async def chosen_accounts(settings: Settings) -> AsyncIterator[Chosen]:
    """The accounts, for as long as the block runs.

    Raises `ConfigError` when Comfy Cloud is chosen and there is no key.
    """
    if settings.simulate:
        from proxy.simulator import Simulator, Switches

        switches = Switches(pace=settings.simulate_pace)
        async with Simulator(plan=_plan(settings.slots), switches=switches) as simulator:
            yield _registered(_simulated(simulator, settings), simulated=True)
        return
    accounts = read_accounts(settings)
    if not accounts:
        raise ConfigError(
            "There is no API key: set COMFY_CLOUD_API_KEY or COMFY_CLOUD_API_KEY_FILE "
            "(keys are made at https://platform.comfy.org), or try it without one by --simulate."
        )
    _warn_of_readers(settings)
    yield _registered(accounts, simulated=False)


def _registered(accounts: list[AccountAccess], *, simulated: bool) -> Chosen:
    for account in accounts:
        register_secret(account.key)
    return Chosen(tuple(accounts), simulated)


def _simulated(simulator: Simulator, settings: Settings) -> list[AccountAccess]:
    """An account of the simulator for each table, whose own key stays where it is."""
    if not settings.accounts:
        slots = PLANS[_plan(settings.slots)]
        return [AccountAccess("default", simulator.base_url, simulator.key, slots)]
    accounts = []
    for table in settings.accounts:
        slots = slots_of(table)
        key = simulator.add_account(f"comfyui-{uuid4().hex}", _plan(slots)).key
        accounts.append(
            AccountAccess(table.name, simulator.base_url, key, slots, table.weight, table.members)
        )
    return accounts


def _plan(slots: int) -> Plan:
    """The smallest plan that runs so many jobs at once."""
    return "standard" if slots <= 1 else "creator" if slots <= 3 else "pro"


def _warn_of_readers(settings: Settings) -> None:
    """Tell of a settings file with a key in it that every user of this machine can read."""
    has_key = any(table.key is not None for table in settings.accounts)
    if settings.config is not None and has_key and _is_open(settings.config):
        log.warning(
            "key_readable_by_all", file=str(settings.config), remedy="chmod o-r, or key_file"
        )


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False
