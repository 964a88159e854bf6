"""`/proxy/api/usage` and `activity`: what members used, by day and over time."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import date
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    pass


async def get_usage(request: web.Request) -> web.Response:
    """Jobs, running seconds, outputs and bytes by day (UTC) and member; members see their own.

    The query has `from` and `to` (days, both included; without them today) and `member`.
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
    """Jobs in each five minutes of the last day, of everybody or a `member`; members see their own.

    `{"from", "to", "interval", "points": [{"at", "running", "waiting", "completed", "failed",
    "busy"}], "accounts": [{"name", "points": [{"at", "slots", "used", "reason"}]}]}`; times are in
    ms. Intervals in which there was nothing are left out; accounts are for admins alone.
    """
    member, activity = whose(request), request.app[ACTIVITY]
    now = int(time.time() * 1000)
    since = now - now % INTERVAL - KEPT + INTERVAL
    accounts: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    if is_admin(request):
        for one in await activity.accounts(since):
            reason = REASONS.get(one.reason, one.reason) or None
            accounts[one.account].append(
                {"at": one.at, "slots": one.slots, "used": one.used, "reason": reason}
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
            "accounts": [{"name": name, "points": some} for name, some in accounts.items()],
        }
    )


def _day(request: web.Request, name: str, default: str) -> str:
    """A day of the query as `YYYY-MM-DD`. Raises `LocalError` (400)."""
    text = request.query.get(name, default)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise LocalError(f"invalid_{name}", f"{name} must be a day such as 2026-01-31.") from None
