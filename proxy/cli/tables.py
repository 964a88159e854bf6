"""What commands print: lines, JSON, and tables for terminals of any width."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

#: The heads of the columns of a table, and what each says of a row.
Columns: TypeAlias = Mapping[str, Callable[[Any], str]]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

#: Letters of a line where no terminal says how many there is room for.
_WIDTH = 200


def shown_time(ms: int, form: str = "%Y-%m-%d") -> str:
    """Return a time in ms since 1970, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime(form)


def say(line: str, *, err: bool = False) -> None:
    """Print a line, on standard error if it is about the command and no result of it."""
    typer.echo(line, err=err)


def print_json(value: object) -> int:
    """Print a value as JSON; returns the exit code 0."""
    say(json.dumps(value, indent=2))
    return 0


def _printable(text: str) -> str:
    """Return a text, which members may have chosen, without what controls a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def print_table(found: Iterable[Any], columns: Columns) -> int:
    """Print a table, or a card for each row in a terminal that is too narrow for the table.

    Returns the exit code 0.
    """
    rows = [[_printable(text(row)) for text in columns.values()] for row in found]
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    unbounded = console.options.update(width=10_000)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return 0
    for row in rows:
        console.print(Text(row[0], style="bold"))
        for column, value in list(zip(columns, row, strict=True))[1:]:
            if value:
                console.print(Padding(Text(f"{column}: {value}"), (0, 0, 0, 2), expand=False))
    return 0
