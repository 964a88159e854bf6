"""`usage` and `audit`: what is kept of members, read while a server may run."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import asdict, fields
from datetime import date
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from proxy.cli.failure import CommandError
from proxy.members import audit as record
from proxy.members.usage import USAGE, MemberDay, Row, day_of, select
from proxy.settings import Settings

Form = Literal["table", "csv", "json"]

#: Milliseconds to wait for a server that writes.
_PATIENCE = 5000

#: Letters of a line where nobody says how many there is room for.
_WIDTH = 160

_COLUMNS = ("day", "member", *(field.name for field in fields(Row)))


def usage(
    settings: Settings, *, first: str | None, last: str | None, member: str | None, form: Form
) -> int:
    """Print the usage from day to day, both included. Returns 0.

    Raises `CommandError` for days that are none and a database that cannot be read.
    """
    until = _day("--to", last) if last else day_of(time.time())
    since = _day("--from", first) if first else until
    rows = select(_documents(settings.data_dir / "proxy.sqlite"), since, until, member)
    match form:
        case "csv":
            lines = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
            lines.writeheader()
            lines.writerows(map(_values, rows))
        case "json":
            sys.stdout.write(json.dumps([_values(row) for row in rows], indent=2) + "\n")
        case "table":
            _print_table(rows, since, until)
    return 0


def audit(settings: Settings, *, limit: int, member: str | None, action: str | None) -> int:
    """Print entries of the audit record as lines of JSON, newest first. Returns 0.

    Raises `CommandError` when it cannot be read.
    """
    folder = settings.data_dir / record.FOLDER
    try:
        for entry in record.read(folder, limit=limit, member=member, action=action):
            sys.stdout.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise CommandError(
            f"The audit record in {folder} cannot be read ({error.strerror}): run this as the "
            "user that runs the proxy."
        ) from None
    return 0


def _documents(path: Path) -> dict[str, bytes]:
    """The stored usage, which is nothing where no proxy has ever run."""
    if not path.exists():
        return {}
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as database:
            database.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
            return dict(
                database.execute("SELECT key, value FROM documents WHERE collection = ?", (USAGE,))
            )
    except sqlite3.Error as error:
        raise CommandError(
            f"The database {path} cannot be read ({error}): run this as the user that runs the "
            "proxy."
        ) from None


def _day(option: str, text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise CommandError(
            f"{option} {text} is no day: write one such as 2026-01-31.", exit_code=2
        ) from None


def _values(row: MemberDay) -> dict[str, Any]:
    used = asdict(row.used)
    used["running_seconds"] = round(row.used.running_seconds, 3)
    return {"day": row.day, "member": row.member, **used}


def _print_table(rows: list[MemberDay], first: str, last: str) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    if not rows:
        days = f"on {first}" if first == last else f"from {first} to {last}"
        console.print(f"Nothing was used {days} (UTC).")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for name in _COLUMNS:
        table.add_column(
            name.replace("_", " "), justify="left" if name in _COLUMNS[:2] else "right"
        )
    for row in rows:
        day, member, *numbers = _values(row).values()
        table.add_row(day, member, *(f"{number:,}" for number in numbers))
    if len(rows) > 1:
        total = Row()
        for row in rows:
            total.add(row.used)
        _, _, *numbers = _values(MemberDay("", "", total)).values()
        table.add_section()
        table.add_row("total", "", *(f"{number:,}" for number in numbers))
    console.print(table)
