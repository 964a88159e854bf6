"""What the cloud says of an account's plan, its balance and what it has booked.

These routes may refuse a key that works everywhere else, so that nothing but the billing itself
depends on them: no failure counts against the account.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, TypeAlias

from proxy.cloud.answers import Answer
from proxy.cloud.errors import CloudError, CloudGarbage, CloudRefused
from proxy.cloud.http import Http
from proxy.translate.billing import BookedPage, page_of
from proxy.translate.plans import AccountPlan, plan_of, run_refusal_of
from proxy.translate.times import rfc3339

#: Events of a page (the maximum of the cloud).
PAGE_SIZE = 100

#: Whether the routes take the key: it is let in, refused (401, 403), or they did not answer.
BillingAccess: TypeAlias = Literal["allowed", "refused", "unknown"]

_REFUSED = frozenset({401, 403})


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

    async def events(self, since: int, until: int, page: int = 1) -> BookedPage:
        """Return a page of the events from `since` to `until` (ms), newest first.

        `total` counts the events of all pages. The cloud may ignore the times. Raises `CloudError`;
        `is_refused` says whether it is about the key.
        """
        query: dict[str, str | int] = {
            "page": page,
            "limit": PAGE_SIZE,
            "start_date": rfc3339(since * 1000, "milliseconds"),
            "end_date": rfc3339(until * 1000, "milliseconds"),
        }
        call = self._http.call("GET", "billing/events", query=query)
        found = page_of(await self._http.read(call, Answer.object))
        if found is None:
            raise CloudGarbage(f"{call}: no list of events in the answer")
        return found

    async def access(self) -> BillingAccess:
        """Return whether the cloud lets the key read what it books. Never raises."""
        try:
            call = self._http.call("GET", "billing/events", query={"limit": 1})
            await self._http.read(call, Answer.object)
        except CloudError as error:
            return "refused" if is_refused(error) else "unknown"
        return "allowed"

    async def _optional(self, route: str) -> dict[str, Any] | None:
        try:
            return await self._http.read(self._http.call("GET", route), Answer.object)
        except CloudError:
            return None


def is_refused(error: CloudError) -> bool:
    """Return whether the routes have refused the key."""
    return isinstance(error, CloudRefused) and error.status in _REFUSED
