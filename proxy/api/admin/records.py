"""`/proxy/api/usage`, `/proxy/api/audit` and `/metrics`: what was used, done and counted."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from proxy.api import bodies
from proxy.api.admin.dashboard import REASONS, dashboard_of
from proxy.api.admin.members import is_admin, require_admin, whose
from proxy.api.connections import member_of, of
from proxy.jobs.service import INTERVAL, KEPT
from proxy.metrics import PREFIX, find
from proxy.storage.database import StorageError
from proxy.storage.jobs import day_of
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.files.cache import Cache
    from proxy.jobs.election import Election
    from proxy.jobs.service import JobService

#: Entries of a page of the audit record, and the furthest that pages go back.
MOST, FURTHEST = 1000, 1_000_000


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
    days = await of(request).accounting.usage.days(first, last, member)
    return bodies.json({"from": first, "to": last, "usage": [asdict(one) for one in days]})


async def get_activity(request: web.Request) -> web.Response:
    """Jobs in each five minutes of the last day, of everybody or a `member`; members see their own.

    `{"from", "to", "interval", "points": [{"at", "running", "waiting", "completed", "failed",
    "busy"}], "accounts": [{"name", "points": [{"at", "slots", "used", "reason"}]}]}`; times are in
    ms. Intervals in which there was nothing are left out; accounts are for admins alone.
    """
    member, activity = whose(request), dashboard_of(request).activity
    now = int(time.time() * 1000)
    since = now - now % INTERVAL - KEPT + INTERVAL
    accounts: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    if is_admin(request):
        for one in await activity.accounts(since):
            reason = REASONS.get(one.reason, one.reason) or None
            point: dict[str, object] = {
                "at": one.at,
                "slots": one.slots,
                "used": one.used,
                "reason": reason,
            }
            accounts[one.account].append(point)
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


async def get_audit(request: web.Request) -> web.Response:
    """The audit record, newest first, in pages of `limit` behind the first `offset`; for admins.

    The query may name a `member` and an `action`.
    """
    require_admin(request)
    limit = _whole_number(request, "limit", 100, MOST)
    offset = _whole_number(request, "offset", 0, FURTHEST)
    audit, query = of(request).accounting.audit, request.query
    try:
        entries = await audit.page(
            limit=limit + 1,
            offset=offset,
            member=query.get("member") or None,
            action=query.get("action") or None,
        )
    except StorageError as error:
        raise LocalError(
            "audit_unavailable",
            "The audit log cannot be read or written; free disk space or repair the disk, then try "
            "again.",
            kind="unavailable",
            details=str(error),
            retry_after=bodies.STORE_WAIT,
        ) from error
    return bodies.json(
        {"entries": entries[:limit], "offset": offset, "has_more": len(entries) > limit}
    )


async def get_surprises(request: web.Request) -> web.Response:
    """What is known of each account's cloud beyond its documents, for admins.

    `{"accounts": [{"account", "facts": {NAME: VALUE}, "surprises": [{"kind", "name", "count",
    "first", "last", "example"}]}]}`.
    """
    require_admin(request)
    observations = of(request).observations
    accounts = [] if observations is None else await observations.report()
    return bodies.json({"accounts": accounts})


def _whole_number(request: web.Request, name: str, default: int, most: int) -> int:
    """A number of the query, from 0 to `most`. Raises `LocalError` (400)."""
    text = request.query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
        raise LocalError(f"invalid_{name}", f"{name} must be a whole number from 0 to {most:,}.")
    return int(text)


def _day(request: web.Request, name: str, default: str) -> str:
    """A day of the query as `YYYY-MM-DD`. Raises `LocalError` (400)."""
    text = request.query.get(name, default)
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise LocalError(f"invalid_{name}", f"{name} must be a day such as 2026-01-31.") from None


async def get_metrics(request: web.Request) -> web.Response:
    """All series for admins; for members their own."""
    return await _page(request, None if is_admin(request) else member_of(request))


async def get_open(request: web.Request) -> web.Response | None:
    """All metrics for anyone who reaches the admin listener; `None` where something else is
    asked."""
    if request.path == "/metrics" and request.method in ("GET", "HEAD"):
        return await _page(request, None)
    return None


async def _page(request: web.Request, member: str | None) -> web.Response:
    services = of(request)
    if not services.metrics_shown:
        return bodies.empty(404)
    accept = request.headers.get("Accept", "")
    body, type_ = await services.accounting.metrics.page(accept, member=member)
    return web.Response(body=body, headers={"Content-Type": type_, "Cache-Control": "no-store"})


class Gauges(Collector):
    """What is read from the rooms when the metrics are asked for.

    Of several replicas the one whose engine runs the jobs alone tells of them, so that sums are
    right.
    """

    def __init__(self, jobs: JobService, election: Election, cache: Cache) -> None:
        self._jobs = jobs
        self._election = election
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
        accounts = {one.name: one for one in self._election.workers()}
        for job in self._jobs.live() if accounts else ():
            jobs[job.member, job.account or "", job.state] += 1
            used[job.account or ""] += job.state == "running"
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
