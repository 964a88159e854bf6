"""`/metrics`: what the proxy counts, for Prometheus, and what it finds at that moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.api import answers
from proxy.api.admin.asking import is_admin
from proxy.api.services import member_of, of
from proxy.metrics import PREFIX, find

if TYPE_CHECKING:
    from proxy.files.cache import Cache
    from proxy.jobs.service import JobService
    from proxy.jobs.worker import AccountWorker

PATH = "/metrics"


async def get_metrics(request: web.Request) -> web.Response:
    """All series for admins; for members their own."""
    return await _page(request, None if is_admin(request) else member_of(request))


async def get_open(request: web.Request) -> web.Response | None:
    """All metrics for whoever reaches the admin listener; `None` where something else is asked."""
    if request.path == PATH and request.method in ("GET", "HEAD"):
        return await _page(request, None)
    return None


async def _page(request: web.Request, member: str | None) -> web.Response:
    services = of(request)
    if not services.metrics_shown:
        return answers.empty(404)
    accept = request.headers.get("Accept", "")
    body, type_ = await services.books.metrics.page(accept, member=member)
    return web.Response(body=body, headers={"Content-Type": type_, "Cache-Control": "no-store"})


class Gauges(Collector):
    """What is read from the rooms when the metrics are asked for."""

    def __init__(self, jobs: JobService, accounts: Sequence[AccountWorker], cache: Cache) -> None:
        self._jobs = jobs
        self._accounts = accounts
        self._cache = cache

    def describe(self) -> Iterable[Family]:
        """Nothing: the registry need not collect to know the names."""
        return ()

    def collect(self) -> Iterator[Family]:
        """All families, with the series of this moment."""
        for name, values in self._values().items():
            row = find(name)
            kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
            family = kind(PREFIX + name, row.help, labels=row.labels)
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family

    def _values(self) -> dict[str, Mapping[tuple[str, ...], float]]:
        jobs: Counter[tuple[str, ...]] = Counter()
        used: Counter[str] = Counter()
        for job in self._jobs.live():
            jobs[job.member, job.account or "", job.state] += 1
            used[job.account or ""] += job.state == "running"
        accounts = {one.name: one for one in self._accounts}
        return {
            "jobs": jobs,
            "queue_length": {
                (member,): self._jobs.queue_remaining(member) for member, _, _ in jobs
            },
            "account_slots": {(name,): one.slots.count for name, one in accounts.items()},
            "account_slots_used": {(name,): used[name] for name in accounts},
            "account_ready": {
                (name, one.health.reason or ""): one.health.well for name, one in accounts.items()
            },
            "event_socket_up": {(name,): one.socket.connected for name, one in accounts.items()},
            "cache_hits": {(): self._cache.hits},
            "cache_misses": {(): self._cache.misses},
            "cache_bytes": {(): self._cache.total},
        }
