"""What the cloud says of an account's plan and its balance.

These routes may refuse a key that works everywhere else, so that no failure counts against the
account.
"""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.cloud.answers import Answer
from proxy.cloud.errors import CloudError
from proxy.cloud.http import Http
from proxy.translate.plans import AccountPlan, plan_of, run_refusal_of


class CloudBilling:
    """The billing routes of one account. `http` must change neither breaker nor limiter."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def plan(self) -> AccountPlan:
        """Return what the cloud reports of the account's plan and balance; fields may be empty.
        Never raises."""
        routes = ("features", "billing/status", "billing/balance")
        return plan_of(*await asyncio.gather(*map(self._optional, routes)))

    async def run_refusal(self) -> str | None:
        """Return why the account may run nothing, as far as the cloud says so (see `run_refusal_of`
        in `proxy.translate.plans`). Never raises."""
        return run_refusal_of(await self._optional("billing/capabilities"))

    async def _optional(self, route: str) -> dict[str, Any] | None:
        try:
            return await self._http.read(self._http.call("GET", route), Answer.object)
        except CloudError:
            return None
