"""What commands share: how they fail, the options of settings, the accounts that they choose."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import uuid4

import structlog

from proxy.logging import register_secret
from proxy.settings import (
    PLANS,
    SETTINGS,
    AccountAccess,
    ConfigError,
    Setting,
    Settings,
    read_accounts,
)

if TYPE_CHECKING:
    from proxy.simulator import Simulator
    from proxy.simulator.account import Plan


T = TypeVar("T")

PROGRAM = "comfy-cloud-proxy"
#: The settings by which a command finds the records.
WHERE = {"config", "data_dir", "simulate"}


def examples(*lines: str) -> str:
    """The examples below the help of a command."""
    return "\b\nExamples:\n" + "\n".join(f"  {PROGRAM} {line}".rstrip() for line in lines)


class CommandError(Exception):
    """Ends the command with one sentence on standard error.

    `exit_code` is 2 for what was asked wrongly and 1 for what went wrong.
    """

    def __init__(self, sentence: str, *, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def takes_settings(
    names: Collection[str] | None = None, more: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Give a command an option for each setting, or for those in `names`, behind its own.

    `more` are further options, their annotations by name. The command gets a dictionary of all
    those that were given as the first argument, for `load`, and its own by name.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    rows = [
        (row, row.option) for row in SETTINGS if row.option and (names is None or row.name in names)
    ]
    further = [
        inspect.Parameter(name, keyword, default=None, annotation=kind)
        for name, kind in (more or {}).items()
    ]

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @wraps(command)
        def with_options(**options: Any) -> T:
            others = {parameter.name: options.pop(parameter.name) for parameter in own}
            given = {name: value for name, value in options.items() if value is not None}
            return command(given, **others)

        with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                *further,
                *(parameter.replace(kind=keyword) for parameter in own),
                *(_parameter(row, option) for row, option in rows),
            ],
            return_annotation=int,
        )
        with_options.__annotations__ = {}
        return with_options

    return decorate


@cache
def _parameter(row: Setting, name: str) -> inspect.Parameter:
    import typer

    declarations = [f"{one}/--no-{one[2:]}" if row.is_flag else one for one in row.options]
    notes = f"[default: {shown_default(row)}] [env: {row.environment}]"
    option = typer.Option(
        *declarations,
        metavar=None if row.is_flag else row.metavar,
        help=f"{row.help} {notes}",
        show_default=False,
    )
    kind: Any = Annotated[bool | None if row.is_flag else str | None, option]
    return inspect.Parameter(
        row.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
    )


def shown_default(row: Setting) -> str:
    """The default as people read it."""
    if row.shown:
        return row.shown
    if row.default is None or row.default == ():
        return "none"
    if isinstance(row.default, bool):
        return "true" if row.default else "false"
    return str(row.default).removesuffix("/")


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
            "(create a key at https://platform.comfy.org), or use --simulate to try it without a "
            "key."
        )
    file, has_key = settings.config, any(table.key is not None for table in settings.accounts)
    if file is not None and has_key and _is_open(file):
        log.warning("key_file_exposed", file=str(file), remedy="chmod o-r, or key_file")
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
        slots = table.jobs_at_once
        key = simulator.add_account(f"comfyui-{uuid4().hex}", _plan(slots)).key
        accounts.append(
            AccountAccess(table.name, simulator.base_url, key, slots, table.weight, table.members)
        )
    return accounts


def _plan(slots: int) -> Plan:
    """The smallest plan that runs this many jobs at once."""
    return "standard" if slots <= 1 else "creator" if slots <= 3 else "pro"


def _is_open(path: Path) -> bool:
    """Whether every user of this machine can read a file."""
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False
