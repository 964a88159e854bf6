"""`config show`: the settings that a server would use, and where each comes from."""

from __future__ import annotations

import sys
from typing import Any

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy.cli.common import command, examples
from proxy.cli.tables import AsJson, print_json
from proxy.settings import SETTINGS, LoadedSettings, load_with_sources

HIDDEN = "(hidden)"
DEFAULT = "default"

#: Columns of a line where no terminal says how many there is room for.
_WIDTH = 500


config = typer.Typer(
    help="Show the settings.", no_args_is_help=True, epilog=examples("config show")
)


@command(
    config,
    "show",
    "config show",
    "config show --config config.toml --json",
    short="Print the settings that are used, and where each comes from.",
    settings=SETTINGS,
)
def _show_config(
    options: dict[str, Any],
    as_json: AsJson = False,
) -> int:
    """Print the settings that `serve` would use with these options, this environment and this file.

    Secrets are not printed.
    """
    return _print(load_with_sources(options), as_json=as_json)


def _print(loaded: LoadedSettings, *, as_json: bool) -> int:
    values = {row.name: _plain(getattr(loaded.settings, row.name)) for row in SETTINGS}
    if loaded.settings.accounts:
        values["accounts"] = [account.name for account in loaded.settings.accounts]
    sources = {name: loaded.sources.get(name, DEFAULT) for name in values}
    if as_json:
        shown = {name: {"value": value, "source": sources[name]} for name, value in values.items()}
        return print_json(shown)
    table = Table(box=None, pad_edge=False)
    for heading in ("Setting", "Value", "From"):
        table.add_column(heading, overflow="fold")
    for name, value in values.items():
        table.add_row(name, Text(_value_text(value)), Text(sources[name].replace("`", "")))
    Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)
    return 0


def _plain(value: Any) -> Any:
    """Return the value of a setting as JSON has it."""
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, tuple):
        if len(value) == 2 and isinstance(value[1], int):
            return f"[{value[0]}]:{value[1]}" if ":" in value[0] else f"{value[0]}:{value[1]}"
        return [str(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _value_text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)
