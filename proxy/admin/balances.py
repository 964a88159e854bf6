"""`/proxy/api/billing`: what is left on accounts, for admins."""

from __future__ import annotations

from aiohttp import web

from proxy.admin.members import read_as, require_admin
from proxy.admin.schema.usage import BalancesShown, balance_shown
from proxy.api import bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.keys import BALANCES, JOBS, Services
from proxy.api.middleware import note
from proxy.costs.balances import GivenBalance, UnknownAccountError
from proxy.costs.credits import to_credits
from proxy.translate.errors import LocalError


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
    note(request, "balance_entered", name=account, credits=balance.credits)
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
