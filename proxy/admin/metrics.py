"""`/metrics` for Prometheus, and `/proxy/api/cloud-anomalies`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.admin.budgets import budget_amounts
from proxy.admin.members import is_admin, require_admin
from proxy.admin.schema.administration import Anomalies
from proxy.admin.usage import balance_amounts
from proxy.api import bodies
from proxy.api.bodies import JsonAnswer
from proxy.api.keys import ACCOUNTING, OBSERVATIONS
from proxy.api.requests import member_of, services_of
from proxy.jobs.models import shown_state
from proxy.metrics import PREFIX, find
from proxy.sharing.budget import MemoryBudget
from proxy.storage.database import StorageError

if TYPE_CHECKING:
    from proxy.files.cache import Cache
    from proxy.jobs.models import AccountView, Shown
    from proxy.jobs.service import JobService
    from proxy.sharing.pool import Pool


async def get_anomalies(request: web.Request) -> JsonAnswer[Anomalies]:
    """Return what was observed of each account's cloud beyond its documents, to admins.

    `{"accounts": [{"account", "facts": {NAME: VALUE}, "anomalies": [{"kind", "name", "count",
    "first", "last", "example"}]}]}`.
    """
    require_admin(request)
    return bodies.json({"accounts": await request.app[OBSERVATIONS].report()})


async def get_metrics(request: web.Request) -> web.Response:
    """Return all series to admins, to members their own."""
    return await _page(request, None if is_admin(request) else member_of(request))


async def get_open(request: web.Request) -> web.Response | None:
    """Return all metrics to anyone who reaches the admin listener, `None` for other requests."""
    if request.path == "/metrics" and request.method in ("GET", "HEAD"):
        return await _page(request, None)
    return None


async def _page(request: web.Request, member: str | None) -> web.Response:
    services = services_of(request)  # the open page is served before the route is resolved
    with suppress(StorageError):  # they stay as they were
        services[ACCOUNTING].metrics.show_budgets(await budget_amounts(services))
        services[ACCOUNTING].metrics.show_balances(await balance_amounts(services))
    accept = request.headers.get("Accept", "")
    body, type_ = await services[ACCOUNTING].metrics.page(accept, member=member)
    return web.Response(body=body, headers={"Content-Type": type_, "Cache-Control": "no-store"})


#: The states of the metric `jobs`.
_STATES: tuple[Shown, ...] = ("waiting", "sending", "pending", "running")


class Gauges(Collector):
    """The metrics whose values are read when they are requested.

    Without any job each of the `members` has its series with 0.
    """

    def __init__(
        self,
        jobs: JobService,
        accounts: Callable[[], Sequence[AccountView]],
        cache: Cache,
        budget: MemoryBudget,
        pools: Mapping[str, Pool],
        members: Callable[[], Iterable[str]],
    ) -> None:
        self._jobs = jobs
        self._members = members
        self._accounts = accounts
        self._cache = cache
        self._budget = budget
        self._pools = pools

    def describe(self) -> Iterable[Family]:
        """Return nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield all families with their current series."""
        for name, values in self._values().items():
            row = find(name)
            kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            shown = row.shown if row.kind == "info" else PREFIX + name
            family = kind(shown, row.help, labels=row.labels)
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family

    def _values(self) -> dict[str, Mapping[tuple[str, ...], float]]:
        jobs: Counter[tuple[str, ...]] = Counter()
        used: Counter[str] = Counter()
        accounts = {account.name: account for account in self._accounts()}
        for member in self._members():
            jobs.update({(member, "", state): 0 for state in _STATES})
        for job in self._jobs.live():
            state = shown_state(job)
            jobs[job.member, job.account, state] += 1
            used[job.account] += state == "running"
        return {
            "jobs": jobs,
            "queue_length": {
                (member,): self._jobs.queue_remaining(member)
                for member in {member for member, _, _ in jobs}
            },
            "account": {(name, account.kind): 1 for name, account in accounts.items()},
            "account_slots": {(name,): account.slots for name, account in accounts.items()},
            "account_slots_used": {(name,): used[name] for name in accounts},
            "account_plan": {
                (name, account.plan.tier): 1
                for name, account in accounts.items()
                if account.plan.tier
            },
            "account_run_limit_seconds": {
                (name,): 60 * account.plan.minutes
                for name, account in accounts.items()
                if account.plan.minutes is not None
            },
            "account_balance": {
                (name, account.plan.currency): account.plan.balance_cents / 100
                for name, account in accounts.items()
                if account.plan.balance_cents is not None
            },
            "account_ready": {
                (name, account.reason or ""): account.reason is None
                for name, account in accounts.items()
            },
            "event_socket_up": {(name,): account.events for name, account in accounts.items()},
            "cache_hits": {(): self._cache.hits},
            "cache_misses": {(): self._cache.misses},
            "cache_bytes": {(): self._cache.total},
            "memory_held_bytes": {(name,): size for name, size in self._budget.held().items()},
            "memory_limit_bytes": {(): self._budget.limit},
            "pool_used": {(name,): pool.used for name, pool in self._pools.items()},
            "pool_size": {(name,): pool.capacity for name, pool in self._pools.items()},
        }
