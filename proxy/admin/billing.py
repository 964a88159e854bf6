"""`/proxy/api/billing`: what accounts were billed, and what is left on them, for admins."""

from __future__ import annotations

from datetime import date

from aiohttp import web

from proxy import clock
from proxy.admin.members import read_as, require_admin
from proxy.admin.schema.usage import BillingShown, account_billed
from proxy.admin.usage import day_parameter
from proxy.api import bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.keys import BILLING
from proxy.api.middleware import note
from proxy.costs.billing import DAYS, MAX_DAYS, EnteredBalance, UnknownAccountError
from proxy.storage.usage import day_of
from proxy.translate.errors import LocalError


async def get_billing(request: web.Request) -> JsonAnswer[BillingShown]:
    """Return what jobs have cost beside what Comfy Cloud has booked, by account and day (UTC).

    For admins. The query has `from` and `to` (days, both included; default the last 30 days).
    Amounts are in credits, and null where they are unknown. The sums `ledger`, `booked` and
    `difference` are of the days that have been read.
    """
    require_admin(request)
    now = clock.time()
    last = day_parameter(request, "to", day_of(now))
    first = day_parameter(request, "from", min(last, day_of(now - 86_400 * (DAYS - 1))))
    if (date.fromisoformat(last) - date.fromisoformat(first)).days >= MAX_DAYS:
        raise LocalError("invalid_from", f"from must be less than {MAX_DAYS} days before to.")
    found = await request.app[BILLING].report(first, last)
    return bodies.json({"from": first, "to": last, "accounts": list(map(account_billed, found))})


async def enter_balance(request: web.Request) -> web.Response:
    """Note how many `credits` are left on an account, for admins; null removes the balance.

    What jobs on the account cost from then on is subtracted from it.
    """
    require_admin(request)
    account = request.match_info["account"]
    balance = await read_as(request, EnteredBalance)
    try:
        await request.app[BILLING].enter(account, balance)
    except UnknownAccountError as error:
        raise LocalError("unknown", str(error), kind="not_found") from None
    note(request, "balance_entered", name=account, credits=balance.credits)
    return bodies.empty(204)
