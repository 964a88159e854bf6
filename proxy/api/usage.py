"""`/proxy/api/usage` and `activity`: usage by day, and jobs over the last day."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import date

from aiohttp import web
from msgspec.structs import asdict

from proxy.api import bodies
from proxy.api.connections import member_of
from proxy.api.dashboard import REASONS
from proxy.api.keys import ACCOUNTING, ACTIVITY
from proxy.api.members import is_admin, whose
from proxy.jobs.service import INTERVAL, KEPT
from proxy.storage.jobs import day_of
from proxy.translate.errors import LocalError


async def get_usage(request: web.Request) -> web.Response:
    """Return jobs, running seconds, outputs and bytes by day (UTC) and member.

    The query has `from` and `to` (days, both included; default today) and `member`. Members get
    their own usage.
    """
    today = day_of(time.time())
    last = _day(request, "to", today)
    first = _day(request, "from", min(last, today))
    member: str | None = request.query.get("member") or None
    if not is_admin(request):
        member = member_of(request)
    days = await request.app[ACCOUNTING].usage.days(first, last, member)
    return bodies.json({"from": first, "to": last, "usage": [asdict(day) for day in days]})


async def get_activity(request: web.Request) -> web.Response:
    """Return jobs in each five minutes of the last day, of everybody or a `member`.

    `{"from", "to", "interval", "points": [{"at", "running", "waiting", "completed", "failed",
    "busy"}], "accounts": [{"name", "points": [{"at", "slots", "used", "reason"}]}]}`; times are in
    ms. Empty intervals are left out. Members get their own jobs, and only admins get accounts.
    """
    member, activity = whose(request), request.app[ACTIVITY]
    now = int(time.time() * 1000)
    since = now - now % INTERVAL - KEPT + INTERVAL
    accounts: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    if is_admin(request):
        for row in await activity.accounts(since):
            reason = REASONS.get(row.reason, row.reason) or None
            accounts[row.account].append(
                {"at": row.at, "slots": row.slots, "used": row.used, "reason": reason}
            )
    points = [asdict(row) for row in await activity.rows(since, member or "")]
    for point in points:
        del point["member"]
    return bodies.json(
        {
            "from": since,
            "to": now,
            "interval": INTERVAL,
            "points": points,
            "accounts": [{"name": name, "points": rows} for name, rows in accounts.items()],
        }
    )


def _day(request: web.Request, name: str, default: str) -> str:
    """Return a day of the query as `YYYY-MM-DD`. Raises `LocalError` (400)."""
    text = request.query.get(name, default)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise LocalError(f"invalid_{name}", f"{name} must be a day such as 2026-01-31.") from None
