"""`/proxy/api/usage`: what was used, by day and member."""

from __future__ import annotations

import time
from dataclasses import asdict

from aiohttp import web

from proxy.api import answers
from proxy.api.admin import asking
from proxy.api.services import member_of, of
from proxy.members.usage import day_of


async def get_usage(request: web.Request) -> web.Response:
    """Jobs, running seconds, outputs and bytes by day (UTC) and member; members see their own.

    The query has `from` and `to` (days, both included; without them today) and `member`.
    """
    books, today = of(request).books, day_of(time.time())
    last = asking.day(request, "to", today)
    first = asking.day(request, "from", min(last, today))
    member: str | None = request.query.get("member") or None
    if not asking.is_admin(request):
        member = member_of(request)
    days = [] if books.usage is None else await books.usage.days(first, last, member)
    rows = [{"day": one.day, "member": one.member, **asdict(one.used)} for one in days]
    return answers.json({"from": first, "to": last, "usage": rows})
