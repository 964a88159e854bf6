"""`/proxy/api/usage` and `/proxy/api/billing`: usage, costs and what is left on accounts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import partial

from aiohttp import web

from proxy.admin.members import is_admin, read_as, require_admin
from proxy.admin.schema.usage import (
    BalancesShown,
    CostOfDay,
    Usage,
    UsageShown,
    balance_shown,
    cost_of_day,
    usage_shown,
)
from proxy.api import bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.content import filename_parameter
from proxy.api.holding import in_turn
from proxy.api.keys import ACCOUNTING, BALANCES, JOBS, Services
from proxy.api.middleware import record_action
from proxy.api.requests import member_of
from proxy.costs.balances import GivenBalance, UnknownAccountError
from proxy.costs.credits import to_credits
from proxy.runtime import clock
from proxy.storage.costs import CostRow
from proxy.storage.usage import UsageRow, day_of
from proxy.translate.errors import LocalError


async def get_usage(request: web.Request) -> JsonAnswer[Usage] | web.Response:
    """Return jobs, running seconds, outputs, bytes and credits by day (UTC), member and token.

    The query has `from` and `to` (days, both included; default today) and `member`. Members get
    their own usage. With `rows=costs` the answer has what jobs have cost by account and node class
    too, with `format=csv` it is a file.
    """
    today = day_of(clock.time())
    last = day_parameter(request, "to", today)
    first = day_parameter(request, "from", min(last, today))
    member: str | None = request.query.get("member") or None
    if not is_admin(request):
        member = member_of(request)
    rows = _choice(request, "rows", ("days", "costs"))
    form = _choice(request, "format", ("json", "csv"))
    usage = request.app[ACCOUNTING].usage
    turn = partial(in_turn, request)
    if rows == "costs":
        costs = await usage.costs(first, last, member)
        if form == "csv":
            return _attachment(f"costs-{first}-{last}.csv", await turn(lambda: costs_csv(costs)))
        shown_costs = await turn(lambda: list(map(cost_of_day, costs)))
        return bodies.json({"from": first, "to": last, "costs": shown_costs})
    days = await usage.days(first, last, member)
    if form == "csv":
        return _attachment(f"usage-{first}-{last}.csv", await turn(lambda: usage_csv(days)))
    shown_days = await turn(lambda: list(map(usage_shown, days)))
    return bodies.json({"from": first, "to": last, "usage": shown_days})


def _choice(request: web.Request, name: str, choices: tuple[str, ...]) -> str:
    """Return a parameter of the query, by default the first choice. Raises `LocalError` (400)."""
    chosen = request.query.get(name, choices[0])
    if chosen not in choices:
        raise LocalError(f"invalid_{name}", f"{name} must be {' or '.join(choices)}.")
    return chosen


def _attachment(name: str, text: str) -> web.Response:
    """Return an answer that browsers save."""
    headers = {
        "Content-Disposition": f"attachment; {filename_parameter(name)}",
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(text=text, content_type="text/csv", headers=headers)


def day_parameter(request: web.Request, name: str, default: str) -> str:
    """Return a day of the query as `YYYY-MM-DD`. Raises `LocalError` (400)."""
    text = request.query.get(name, default)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise LocalError(f"invalid_{name}", f"{name} must be a day such as 2026-01-31.") from None


def usage_csv(rows: Iterable[UsageRow]) -> str:
    """Return usage as CSV: a line of names, and a line for each day, member and token."""
    return _csv([*UsageShown.__annotations__], map(usage_shown, rows))


def costs_csv(rows: Iterable[CostRow]) -> str:
    """Return costs as CSV: a line of names, and a line for each day, member, account, node class
    and source."""
    return _csv([*CostOfDay.__annotations__], map(cost_of_day, rows))


def _csv(names: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    text = io.StringIO()
    lines = csv.DictWriter(text, names, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue()


async def get_balances(request: web.Request) -> JsonAnswer[BalancesShown]:
    """Return what is left on the accounts, in credits, for admins; null where it is unknown."""
    require_admin(request)
    plans = {view.name: view.plan for view in request.app[JOBS].accounts()}
    found = await request.app[BALANCES].read(plans)
    return bodies.json({"accounts": [balance_shown(*item) for item in found.items()]})


async def enter_balance(request: web.Request) -> web.Response:
    """Note how many `credits` are left on an account, for admins; null removes the balance.

    What jobs on the account cost from then on is subtracted from it.
    """
    require_admin(request)
    account = request.match_info["account"]
    balance = await read_as(request, GivenBalance)
    try:
        await request.app[BALANCES].enter(account, balance)
    except UnknownAccountError as error:
        raise LocalError("unknown", str(error), kind="not_found") from None
    record_action(request, "balance_entered", name=account, credits=balance.credits)
    return bodies.empty(204)


async def balance_amounts(services: Services) -> dict[tuple[str, str], float]:
    """Return what is left in credits, by account and source. Raises `StorageError`."""
    plans = {view.name: view.plan for view in services[JOBS].accounts()}
    found = await services[BALANCES].read(plans)
    return {
        (name, balance.source): to_credits(balance.amount)
        for name, balance in found.items()
        if balance.amount is not None
    }
