"""`usage` and `audit`: who used what, and who did what."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Annotated, Any, TypeVar

import typer
from rich.filesize import decimal

from proxy import clock
from proxy.admin.reports import costs_csv, usage_csv
from proxy.admin.schema.usage import cost_of_day, usage_shown
from proxy.cli.common import UsageError, option
from proxy.cli.records import read_stored
from proxy.cli.tables import AsJson, Columns, print_json, print_table, say
from proxy.costs.credits import to_credits
from proxy.members.tokens import shown_id
from proxy.settings import Settings, load
from proxy.storage.costs import CostRow
from proxy.storage.usage import UsageRepository, UsageRow, day_of

T = TypeVar("T")

_Member = Annotated[str | None, option("NAME", "Only this member.")]


def usage(
    options: dict[str, Any],
    first: Annotated[
        str | None,
        option(
            "DAY",
            "The first day (UTC), such as 2026-01-31. The default is the last day.",
            "--from",
        ),
    ] = None,
    last: Annotated[
        str | None, option("DAY", "The last day. The default is today.", "--to")
    ] = None,
    member: _Member = None,
    by_costs: Annotated[
        bool, typer.Option("--costs", help="Print costs by token, account and node class.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> int:
    """Print usage: jobs, running seconds, credits, outputs and bytes by day, member and token."""

    settings = load(options)
    until = _date("--to", last) if last else day_of(clock.time())
    since = _date("--from", first) if first else until
    if since > until:
        raise UsageError(f"--from {since} is after the last day, {until}: correct --from or --to.")
    if by_costs:
        costs = _asked(settings, "costs", lambda stored: stored.costs(since, until, member))
        return _print_costs(costs, _days(since, until), as_csv=as_csv, as_json=as_json)
    rows = _asked(settings, "usage", lambda stored: stored.days(since, until, member))
    if as_csv:
        sys.stdout.write(usage_csv(rows))
    elif as_json:
        print_json(list(map(usage_shown, rows)))
    else:
        _print_usage(rows, _days(since, until))
    return 0


def audit(
    options: dict[str, Any],
    limit: Annotated[
        int, typer.Option("--limit", min=1, metavar="COUNT", help="The maximum number of entries.")
    ] = 100,
    member: _Member = None,
    action: Annotated[str | None, option("NAME", "Only this action.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each entry.")
    ] = False,
) -> int:
    """Print the audit log, newest first, as a table with times in UTC."""
    rows = _asked(
        load(options),
        "audit record",
        lambda stored: stored.record(limit=limit, member=member, action=action),
    )
    if as_json:
        for row in rows:
            say(row.entry.decode())
        return 0
    columns: Columns = {
        "Time": lambda entry: entry["at"][:19].replace("T", " "),
        "Action": lambda entry: entry["action"],
        "Member": lambda entry: entry["member"],
        "Address": lambda entry: entry["address"],
        "Details": lambda entry: "; ".join(
            f"{name} {', '.join(value) if isinstance(value, list) else value}"
            for name, value in entry.items()
            if name not in ("at", "action", "member", "address") and value != ""
        ),
    }
    return print_table([json.loads(row.entry) for row in rows], columns)


def _asked(
    settings: Settings, what: str, ask: Callable[[UsageRepository], Awaitable[list[T]]]
) -> list[T]:
    return read_stored(settings, what, lambda database: ask(UsageRepository(database)))


def _date(option: str, text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise UsageError(f"{option} {text} is not a day: use one such as 2026-01-31.") from None


def _days(first: str, last: str) -> str:
    return f"on {first}" if first == last else f"from {first} to {last}"


def _credits(millionths: int) -> str:
    return f"{to_credits(millionths):,.2f}"


def _print_costs(rows: list[CostRow], days: str, *, as_csv: bool, as_json: bool) -> int:
    if as_csv:
        sys.stdout.write(costs_csv(rows))
        return 0
    if as_json:
        return print_json(list(map(cost_of_day, rows)))
    if not rows:
        say(f"No costs {days} (UTC).")
        return 0
    columns: Columns = {
        "day": lambda row: row.day,
        "member": lambda row: row.member,
        "token": lambda row: shown_id(row.token),
        "account": lambda row: row.account,
        "node class": lambda row: row.node_class or "GPU",
        "credits": lambda row: "?" if row.source == "unknown" else _credits(row.amount),
        "source": lambda row: row.source,
        "nodes": lambda row: f"{row.nodes:,}" if row.node_class else "",
        "running seconds": lambda row: "" if row.node_class else f"{row.seconds:,.1f}",
    }
    return print_table(rows, columns)


def _print_usage(rows: list[UsageRow], days: str) -> None:
    if not rows:
        say(f"No usage {days} (UTC).")
        return
    total = UsageRow("total", "")
    for row in rows:
        total = total.plus(row)
    columns: Columns = {
        "day": lambda row: row.day,
        "member": lambda row: row.member,
        "token": lambda row: shown_id(row.token),
        "jobs": lambda row: f"{row.submitted:,}",
        "failed": lambda row: f"{row.failed:,}",
        "running seconds": lambda row: f"{row.running_seconds:,.1f}",
        "credits": lambda row: _credits(row.credits_reported + row.credits_estimated),
        "reported": lambda row: _credits(row.credits_reported),
        "unknown costs": lambda row: f"{row.unknown_costs:,}",
        "outputs": lambda row: f"{row.outputs:,}",
        "up": lambda row: decimal(row.bytes_up),
        "down": lambda row: decimal(row.bytes_down),
    }
    print_table([*rows, total] if len(rows) > 1 else rows, columns)
