"""Makes Prometheus' families of what the rooms have counted, at the moment of the scrape."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client import Metric as Family
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.accounts.account import Account
from proxy.counting import Histogram
from proxy.metrics.table import METRICS, PREFIX
from proxy.metrics.tally import Labels, Tally

T = TypeVar("T")


class LiveJob(Protocol):
    """What is read of a job that has not ended."""

    @property
    def member(self) -> str:
        """Whose it is."""

    @property
    def account(self) -> str | None:
        """Where it is, if it has an account."""

    @property
    def state(self) -> str:
        """How far it is."""


class Cache(Protocol):
    """What is read of the cache on disk."""

    hits: int
    misses: int

    @property
    def total(self) -> int:
        """Bytes."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the numbers come from.

    `live` gives all jobs that have not ended, `queue_remaining` what a member's clients are told.
    """

    tally: Tally
    live: Callable[[], Iterable[LiveJob]]
    queue_remaining: Callable[[str], int]
    accounts: Sequence[Account]
    cache: Cache


class ProxyCollector(Collector):
    """A collector for a registry."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> Iterable[Family]:
        """Nothing: the registry need not collect to know the names."""
        return ()

    def collect(self) -> Iterator[Family]:
        """All families of the table, in its order."""
        counts, histograms = self._counts(), self._histograms()
        for metric in METRICS:
            name, labels = PREFIX + metric.name, metric.labels
            match metric.kind:
                case "counter":
                    counter = CounterMetricFamily(name, metric.help, labels=labels)
                    for row, value in counts[metric.name].items():
                        counter.add_metric(row, value)
                    yield counter
                case "gauge":
                    gauge = GaugeMetricFamily(name, metric.help, labels=labels)
                    for row, value in counts[metric.name].items():
                        gauge.add_metric(row, value)
                    yield gauge
                case "histogram":
                    family = HistogramMetricFamily(name, metric.help, labels=labels)
                    for row, histogram in histograms[metric.name].items():
                        family.add_metric(row, histogram.buckets(), histogram.sum)
                    yield family
                case "info":
                    yield InfoMetricFamily(name, metric.help, {"version": __version__})

    def _counts(self) -> dict[str, Mapping[Labels, float]]:
        tally, cache, accounts = self._sources.tally, self._sources.cache, self._sources.accounts
        jobs: Counter[Labels] = Counter()
        used: Counter[str] = Counter()
        for job in self._sources.live():
            jobs[job.member, job.account or "", job.state] += 1
            used[job.account or ""] += job.state == "running"
        return {
            "requests": tally.requests,
            "websocket_clients": _alone(tally.websockets),
            "previews_dropped": _alone(tally.previews_dropped),
            "bytes_uploaded": _alone(tally.uploaded),
            "bytes_served": _alone(tally.served),
            "limit_refusals": tally.limit_refusals,
            "jobs_accepted": _alone(tally.accepted_jobs),
            "jobs_ended": tally.ended_jobs,
            "jobs": jobs,
            "queue_length": {
                (member,): self._sources.queue_remaining(member) for member, _, _ in jobs
            },
            "account_slots": {(one.name,): one.slots.count for one in accounts},
            "account_slots_used": {(one.name,): used[one.name] for one in accounts},
            "account_ready": {
                (one.name, one.health.reason or ""): one.health.well for one in accounts
            },
            "event_socket_up": {(one.name,): one.socket.connected for one in accounts},
            "cloud_calls": {
                (one.name, *key): count
                for one in accounts
                for key, count in one.cloud.calls.counts.items()
            },
            "cloud_bytes_uploaded": {(one.name,): one.cloud.calls.uploaded for one in accounts},
            "cloud_bytes_downloaded": {(one.name,): one.cloud.calls.downloaded for one in accounts},
            "cache_hits": {(): cache.hits},
            "cache_misses": {(): cache.misses},
            "cache_bytes": {(): cache.total},
        }

    def _histograms(self) -> dict[str, Mapping[Labels, Histogram]]:
        tally = self._sources.tally
        return {
            "request_seconds": tally.request_seconds,
            "job_wait_seconds": tally.wait_seconds,
            "job_running_seconds": tally.running_seconds,
            "cloud_call_seconds": {
                (one.name, *key): histogram
                for one in self._sources.accounts
                for key, histogram in one.cloud.calls.seconds.items()
            },
        }


class Metrics:
    """The metrics of one application, in a registry of its own with those of the process."""

    def __init__(self, sources: Sources) -> None:
        self.tally = sources.tally
        self._registry = CollectorRegistry()
        self._registry.register(ProxyCollector(sources))
        ProcessCollector(registry=self._registry)

    async def page(self, accept: str, *, member: str | None = None) -> tuple[bytes, str]:
        """The text and its media type, by the `Accept` of the request.

        With `member` it holds only what is labelled as this member's. The text is made in a
        thread, so that events need not wait for it.
        """
        families = list(self._registry.collect())
        if member is not None:
            families = _of(member, families)
        encode, media_type = choose_encoder(accept)
        return await asyncio.to_thread(encode, _Collected(families)), media_type


class _Collected(Collector):
    """Families that have been collected already."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _of(member: str, families: Iterable[Family]) -> list[Family]:
    found = []
    for family in families:
        samples = [one for one in family.samples if one.labels.get("member") == member]
        if samples:
            family.samples = samples
            found.append(family)
    return found


def _alone(counts: Mapping[str, T]) -> dict[Labels, T]:
    return {(name,): count for name, count in counts.items()}
