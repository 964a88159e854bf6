"""`/proxy/api/usage` and `activity`: usage by day, and jobs over the last day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from functools import partial
from typing import cast

from aiohttp import web

from proxy import clock
from proxy.admin.members import is_admin, whose
from proxy.admin.reports import costs_csv, usage_csv
from proxy.admin.schema.usage import (
    AccountActivity,
    AccountPoint,
    Activity,
    ActivityPoint,
    Range,
    Usage,
    cost_of_day,
    usage_shown,
)
from proxy.admin.state import REASONS
from proxy.api import bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.content import filename_parameter
from proxy.api.holding import in_turn
from proxy.api.keys import ACCOUNTING, ACTIVITY
from proxy.api.requests import member_of
from proxy.jobs.activity import INTERVAL, aggregate, folded, folded_accounts
from proxy.storage.usage import day_of
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


#: An interval and the whole of what a chart shows, in ms.
RANGES: Mapping[str, tuple[int, int]] = {
    "1h": (60_000, 3_600_000),
    "24h": (INTERVAL, 86_400_000),
    "7d": (3_600_000, 7 * 86_400_000),
}


async def get_activity(request: web.Request) -> JsonAnswer[Activity]:
    """Return jobs in each interval of a `range`, of everybody or a `member`; members see their own.

    `range` is `1h`, `24h` (so without it) or `7d`. The answer is `{"range", "from", "to",
    "interval", "is_new", "points": [{"at", "running", "waiting", "completed", "failed", "busy"}],
    "account_interval", "accounts": [{"name", "points": [{"at", "slots", "used", "reason"}]}]}`;
    times are in ms. `from` is the start of a server that `is_new`, younger than the range.
    Intervals in which there was nothing are left out; accounts are for admins alone.
    """
    member, activity = whose(request), request.app[ACTIVITY]
    chosen = request.query.get("range") or "24h"
    if chosen not in RANGES:
        raise LocalError("invalid_range", f"range must be one of {', '.join(RANGES)}.")
    interval, length = RANGES[chosen]
    now = clock.now()
    since = now - now % interval - length + interval
    start = await activity.first()
    begun = now - now % interval if start is None else start - start % interval
    return bodies.json(
        {
            "range": cast(Range, chosen),
            "from": max(since, begun),
            "to": now,
            "interval": interval,
            "is_new": begun > since,
            "points": await _points(request, member, since, interval),
            "account_interval": max(interval, INTERVAL),
            "accounts": await _accounts(request, since, max(interval, INTERVAL)),
        }
    )


async def _points(
    request: web.Request, member: str | None, since: int, interval: int
) -> list[ActivityPoint]:
    """Return jobs in each interval. Those of less than what is stored are counted from the jobs."""
    activity, now = request.app[ACTIVITY], clock.now()
    if interval < INTERVAL:
        times = await activity.times(since, member)
        count = partial(aggregate, times, since, now, interval)
        found = await in_turn(request, lambda: list(count()))
        rows = [row for row in found if row.member == (member or "")]
    else:
        rows = folded(await activity.rows(since, member or ""), interval)
    return [
        {
            "at": row.at,
            "running": row.running,
            "waiting": row.waiting,
            "completed": row.completed,
            "failed": row.failed,
            "busy": row.busy,
        }
        for row in rows
    ]


async def _accounts(request: web.Request, since: int, interval: int) -> list[AccountActivity]:
    """Return how the accounts were, for admins; nothing for others."""
    if not is_admin(request):
        return []
    accounts: defaultdict[str, list[AccountPoint]] = defaultdict(list)
    stored = since - since % INTERVAL
    for row in folded_accounts(await request.app[ACTIVITY].accounts(stored), interval):
        reason = REASONS.get(row.reason, row.reason) or None
        point: AccountPoint = {
            "at": row.at,
            "slots": row.slots,
            "used": row.used,
            "reason": reason,
        }
        accounts[row.account].append(point)
    return [{"name": name, "points": points} for name, points in accounts.items()]


def day_parameter(request: web.Request, name: str, default: str) -> str:
    """Return a day of the query as `YYYY-MM-DD`. Raises `LocalError` (400)."""
    text = request.query.get(name, default)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise LocalError(f"invalid_{name}", f"{name} must be a day such as 2026-01-31.") from None
