"""What commands share: how they fail, how they are declared, the accounts that they choose."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from msgspec import Struct
from typer.core import TyperCommand

from proxy.logging import register_secret
from proxy.runtime import randomness
from proxy.settings import (
    SERVE_SETTINGS,
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

log = structlog.get_logger(__name__)

PROGRAM = "comfy-cloud-proxy"
#: Seconds that the simulator takes for a sampling step: its progress is seen, and nobody waits.
PACE = 0.05
#: The settings by which a command finds the records.
WHERE = [row for row in SETTINGS if row.name in ("config", "data_dir", "simulate")]


class CommandError(Exception):
    """Raised to end the command with one sentence on standard error, because something went
    wrong."""

    exit_code = 1


class UsageError(CommandError):
    """Raised to end the command with one sentence on standard error, because of wrong arguments."""

    exit_code = 2


def examples(*lines: str) -> str:
    """Return the examples below the help of a command."""
    return "\b\nExamples:\n" + "\n".join(f"  {PROGRAM} {line}".rstrip() for line in lines)


def option(metavar: str, text: str, *names: str, **more: Any) -> Any:
    """Return an option that takes a value, and whose default its text explains."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, **more)


def argument(metavar: str, text: str) -> Any:
    """Return a positional argument of a command."""
    return typer.Argument(metavar=metavar, help=text, show_default=False)


#: The options that `serve --help` shows; the others have a default that suits almost everybody.
_COMMON = frozenset(
    {"open", "host", "port", "config", "data_dir", "simulate", "insecure_allow_anyone"}
    | {"api_key_file", "slots", "cors_origins", "credits_per_day", "log_format", "log_level"}
    | {"base_path", "trusted_proxies", "tls_cert", "tls_key", "admin_listen"}
    | {"output_directory", "save_outputs", "input_directory", "cache_mb"}
)
_GROUPS = {row.name: row.group for row in SERVE_SETTINGS}
#: The mark of a context whose help has all options.
_ALL = f"{__name__}.all"


class ServeCommand(TyperCommand):
    """The command with an option for each setting, in the groups of the documents."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the common options, or all if `show_all_options` has asked for them."""
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in _GROUPS.values()}
        groups["Help"] = []
        for parameter in self.get_params(ctx):
            name, record = parameter.name or "", parameter.get_help_record(ctx)
            if record is not None and (name not in _GROUPS or name in _COMMON or _ALL in ctx.meta):
                groups[_GROUPS.get(name, "Help")].append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def show_all_options(context: typer.Context, wanted: bool) -> None:
    """Print the help of a `ServeCommand` with all options and exit, if that is wanted."""
    if wanted:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


def command(
    group: typer.Typer,
    name: str,
    *lines: str,
    short: str | None = None,
    cls: type[TyperCommand] = TyperCommand,
    settings: Iterable[Setting] = WHERE,
    more: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Add a function to a group of commands, with examples and an option for each of the settings.

    `more` are further options, their annotations by name. The function gets a dictionary of all
    those that were given as the first argument, for `load`, and its own by name.
    """

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        @wraps(function)
        def with_options(**options: Any) -> int:
            others = {parameter.name: options.pop(parameter.name) for parameter in own}
            given = {name: value for name, value in options.items() if value is not None}
            return function(given, **others)

        with_options.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                *(_parameter(name, kind) for name, kind in (more or {}).items()),
                *(parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in own),
                *(_parameter(row.name, _kind(row)) for row in settings if row.option),
            ],
            return_annotation=int,
        )
        with_options.__annotations__ = {}
        group.command(name, cls=cls, short_help=short, epilog=examples(*lines))(with_options)
        return function

    return decorate


def _parameter(name: str, kind: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


@cache
def _kind(row: Setting) -> Any:
    notes = f" [default: {shown_default(row)}] [env: {row.environment}]"
    text = f"{row.help}{'' if row.for_once else notes}"
    if row.is_flag:
        return Annotated[bool | None, option("", text, row.declaration)]
    return Annotated[str | None, option(row.metavar, text, row.declaration)]


def shown_default(row: Setting) -> str:
    """Return the default as people read it."""
    if row.shown:
        return row.shown
    if row.default is None or row.default == ():
        return "none"
    if isinstance(row.default, bool):
        return "true" if row.default else "false"
    return str(row.default).removesuffix("/")


class Chosen(Struct, frozen=True):
    """The chosen accounts, at least one, and whether they are simulated."""

    accounts: tuple[AccountAccess, ...]
    simulated: bool

    def __str__(self) -> str:
        name = "Comfy Cloud simulator" if self.simulated else "Comfy Cloud"
        urls = dict.fromkeys(str(account.base_url).rstrip("/") for account in self.accounts)
        count = len(self.accounts)
        return f"{f'{count} accounts of ' if count > 1 else ''}{name} at {' and '.join(urls)}"


@asynccontextmanager
async def chosen_accounts(settings: Settings) -> AsyncIterator[Chosen]:
    """Return a context manager with the accounts.

    Raises `ConfigError` when Comfy Cloud is chosen and there is no key.
    """
    if settings.simulate:
        from proxy.simulator import Simulator, Switches

        switches = Switches(pace=PACE)
        async with (
            Simulator(plan=_plan(settings.slots), switches=switches) as simulator,
            _simulated_deployments(settings) as deployments,
        ):
            accounts = [*_simulated(simulator, settings), *deployments]
            yield _registered(accounts, simulated=True)
        return
    if settings.simulate_deployment:
        raise ConfigError("simulate_deployment needs the simulator: add simulate = true.")
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


#: The account of a simulated deployment that has no table.
_STUDIO = "studio"


@asynccontextmanager
async def _simulated_deployments(settings: Settings) -> AsyncIterator[list[AccountAccess]]:
    """Run a deployment for each table of one, and one more if the settings ask for it. Their lists
    of nodes are files, since a deployment does not serve its own."""
    tables = {table.name: table for table in settings.accounts if table.is_deployment}
    names = [*tables] + [_STUDIO] * (settings.simulate_deployment and _STUDIO not in tables)
    if not names:
        yield []
        return
    from proxy.simulator.deployment import DeploymentSwitches, SimulatedDeployment

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="object_info-")))
        accounts = []
        for name in names:
            switches = DeploymentSwitches(pace=PACE)
            deployment = await stack.enter_async_context(SimulatedDeployment(switches=switches))
            listed = folder / f"{name}.json"
            listed.write_bytes(deployment.object_info)
            table = tables.get(name)
            accounts.append(
                AccountAccess(
                    name,
                    deployment.base_url,
                    deployment.key,
                    switches.workers,
                    members=() if table is None else table.members,
                    nodes=listed,
                )
            )
        yield accounts


def _simulated(simulator: Simulator, settings: Settings) -> list[AccountAccess]:
    """Return an account of the simulator for each table of the settings, whose own key is not
    used."""
    if not settings.accounts:
        slots = _PLANS[_plan(settings.slots)]
        return [AccountAccess("default", simulator.base_url, simulator.key, slots)]
    accounts = []
    for table in settings.accounts:
        if table.is_deployment:
            continue
        plan = _plan(table.slots)
        key = simulator.add_account(f"comfyui-{randomness.uuid4().hex}", plan).key
        accounts.append(
            AccountAccess(table.name, simulator.base_url, key, table.slots, table.members)
        )
    return accounts


#: Jobs at once by plan of the simulator.
_PLANS: dict[Plan, int] = {"standard": 1, "creator": 3, "pro": 5, "team": 25}


def _plan(slots: int) -> Plan:
    """Return the smallest plan that runs this many jobs at once."""
    return next((plan for plan in _PLANS if slots <= _PLANS[plan]), "team")


def _is_open(path: Path) -> bool:
    """Return whether every user of this machine can read a file."""
    try:
        return bool(path.stat().st_mode & 0o004)
    except OSError:
        return False
