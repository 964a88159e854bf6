"""What the proxy counts, for Prometheus, and what it learns of each account's cloud.

One event loop counts and reads. What happens often keeps its series at hand, and requests, which
are counted more often than everything else together, are counted without the locks of the library.

*Facts* of a cloud are measured (by the command `probe`, or by the way) and decide where the proxy
otherwise has to guess. *Surprises* are answers and events of a form that nobody has listed: they
are counted, and one example of each is kept without its secrets.
"""

from __future__ import annotations

import asyncio
import re
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal, Protocol, TypeVar, cast

import structlog
from msgspec import Struct, field
from msgspec.structs import replace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector
from yarl import URL

from proxy import __version__
from proxy.logging import without_secrets
from proxy.storage.database import Database, StorageError
from proxy.storage.usage import FACT, Observation, ObservationRepository
from proxy.translate import codec

log = structlog.get_logger(__name__)

Kept = TypeVar("Kept", bound=MetricWrapperBase)

PREFIX = "comfy_cloud_proxy_"

disable_created_metrics()  # type: ignore[no-untyped-call] # when a series was made

#: Bounds in seconds for answers and calls.
QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Bounds in seconds for jobs.
SLOW = (0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)

_CLASSES = ("other", "1xx", "2xx", "3xx", "4xx", "5xx", *("other",) * 4)

Kind = Literal["counter", "gauge", "histogram", "info"]


class Metric(Struct, frozen=True):
    """A metric. Members see those series on which `member` is their name, and no other."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str

    @property
    def shown(self) -> str:
        """The name as it is in the text format; a histogram has `_bucket`, `_sum` and `_count`."""
        suffix = {"counter": "_total", "info": "_info"}.get(self.kind, "")
        return f"{PREFIX}{self.name}{suffix}"


#: `name | kind | labels | help`; `docs/metrics.md` has the same.
_TABLE = """
build | info | version | The version of the proxy.
requests | counter | member method route status | Answered requests; status is a class such as \
  2xx. The label member is empty without a valid token.
request_seconds | histogram | method route | Time from a request's headers to the end of its \
  handler; without websockets.
websocket_clients | gauge | member | Open websockets.
previews_dropped | counter | member | Previews dropped because a client read too slowly.
bytes_uploaded | counter | member | Bytes of files received from clients.
bytes_served | counter | member | Bytes of files sent to clients.
limit_refusals | counter | member limit | Requests and jobs refused because of a limit of the \
  member.
jobs_accepted | counter | member | Accepted jobs.
jobs_ended | counter | member account outcome | Jobs that have ended: completed, failed, \
  cancelled, or withdrawn (deleted while they waited).
jobs | gauge | member account state | Jobs that have not ended: waiting in the proxy, sending to \
  the cloud, pending or running there. The label account is empty for jobs without an account.
queue_length | gauge | member | Waiting and running jobs, as in queue_remaining.
job_wait_seconds | histogram | member account | Time from the acceptance of a job to its \
  submission to the cloud.
job_running_seconds | histogram | member account | Running time of ended jobs on the cloud.
account_slots | gauge | account | Jobs that the account runs at once, as configured or discovered.
account_slots_used | gauge | account | Jobs of the proxy that run on the account.
account_ready | gauge | account reason | 1 if the account accepts jobs, 0 if it does not, with the \
  reason.
event_socket_up | gauge | account | 1 if the account's event socket is open.
cloud_calls | counter | account method route status | Calls to Comfy Cloud; the status is none \
  without an answer.
cloud_call_seconds | histogram | account method route | Time from a call to the headers of its \
  answer.
cloud_surprises | counter | account kind | Undocumented answers and events of Comfy Cloud.
cloud_bytes_uploaded | counter | account | Bytes of files sent to the cloud.
cloud_bytes_downloaded | counter | account | Bytes of files downloaded from the cloud.
cache_hits | counter | | Files found in the disk cache.
cache_misses | counter | | Files that were downloaded from the cloud.
cache_bytes | gauge | | Bytes in the disk cache.
memory_held_bytes | gauge | purpose | Bytes of memory held for clients, by what they are held for.
memory_limit_bytes | gauge | | Bytes of memory that may be held for clients (memory_mb).
"""


def _row(line: str) -> Metric:
    name, kind, labels, text = (" ".join(cell.split()) for cell in line.split("|"))
    return Metric(name, cast(Kind, kind), tuple(labels.split()), text)


METRICS = tuple(map(_row, _TABLE.strip().splitlines()))

_BY_NAME = {metric.name: metric for metric in METRICS}


def lines() -> list[str]:
    """The table in Markdown."""
    head = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    return head + [
        f"| `{metric.shown}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in METRICS
    ]


def find(name: str) -> Metric:
    """The row of the table with that name."""
    return _BY_NAME[name]


class CountedJob(Protocol):
    """What is counted by, of a job: whose it is and where it runs."""

    @property
    def member(self) -> str: ...
    @property
    def account(self) -> str: ...


class Metrics:
    """The metrics of one application, in a registry of its own with those of the process.

    Counts since the start; also an observer of the jobs. What is read from the rooms at the moment
    of the scrape is collected by those who know them (`registry.register`).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._new(Info, "build").info({"version": __version__})
        self._requests = _Requests()
        self.registry.register(self._requests)
        self.answered = self._requests.answered
        self.websockets = self._new(Gauge, "websocket_clients")
        self.previews_dropped = self._new(Counter, "previews_dropped")
        self.uploaded = self._new(Counter, "bytes_uploaded")
        self.served = self._new(Counter, "bytes_served")
        self.limit_refusals = self._new(Counter, "limit_refusals")
        self._accepted = self._new(Counter, "jobs_accepted")
        self._ended = self._new(Counter, "jobs_ended")
        self._wait = self._new(Histogram, "job_wait_seconds", buckets=SLOW)
        self._running = self._new(Histogram, "job_running_seconds", buckets=SLOW)
        self.cloud_calls = self._new(Counter, "cloud_calls")
        self.cloud_call_seconds = self._new(Histogram, "cloud_call_seconds", buckets=QUICK)
        self.cloud_uploaded = self._new(Counter, "cloud_bytes_uploaded")
        self.cloud_downloaded = self._new(Counter, "cloud_bytes_downloaded")
        self._surprises = self._new(Counter, "cloud_surprises")

    def _new(self, kind: type[Kept], name: str, **options: Any) -> Kept:
        row = find(name)
        labels = () if kind is Info else row.labels  # an Info takes them with its values
        return kind(PREFIX + name, row.help, labels, registry=self.registry, **options)

    def calls(self, account: str) -> CloudCalls:
        """Who counts the calls of an account."""
        return CloudCalls(account, self)

    def surprised(self, account: str, kind: str) -> None:
        """The account's cloud did something that nobody has listed."""
        self._surprises.labels(account, kind).inc()

    # --- an observer of the jobs -----------------------------------------------------------

    def accepted(self, job: CountedJob) -> None:
        """A job was taken in."""
        self._accepted.labels(job.member).inc()

    def dispatched(self, job: CountedJob, waited: float) -> None:
        """A job was submitted to the cloud after `waited` seconds."""
        self._wait.labels(job.member, job.account).observe(waited)

    def ended(self, job: CountedJob, outcome: str, running_seconds: float) -> None:
        """A job has ended."""
        self._ended.labels(job.member, job.account, outcome).inc()
        self._running.labels(job.member, job.account).observe(running_seconds)

    def discarded(self, job: CountedJob) -> None:
        """A waiting job was taken out."""
        self._ended.labels(job.member, job.account, "withdrawn").inc()

    # --- reading ---------------------------------------------------------------------------

    async def page(self, accept: str, *, member: str | None = None) -> tuple[bytes, str]:
        """The text and its media type, by the `Accept` of the request.

        With `member` it holds only what is labelled as this member's. The text is made in a
        thread, so that events need not wait for it.
        """
        families = list(self.registry.collect())
        if member is not None:
            for family in families:
                own = [one for one in family.samples if one.labels.get("member") == member]
                family.samples = own
            families = [family for family in families if family.samples]
        encode, media_type = choose_encoder(accept)
        return await asyncio.to_thread(encode, _Collected(families)), media_type


class CloudCalls:
    """Counts the calls of one account, and the bytes of its files."""

    def __init__(self, account: str, metrics: Metrics) -> None:
        self._account = account
        self._metrics = metrics
        #: Those of a method, a route and a status; to look for them costs more than to count.
        self._series: dict[tuple[str, str, int | None], tuple[Counter, Histogram]] = {}
        self.uploaded = metrics.cloud_uploaded.labels(account).inc
        self.downloaded = metrics.cloud_downloaded.labels(account).inc

    def note(self, method: str, route: str, status: int | None, seconds: float) -> None:
        """Count a call by its route; `status` is `None` if it was not answered.

        `seconds` is the time to the headers of the answer.
        """
        key = method, route, status
        if key not in self._series:
            told = "none" if status is None else str(status)
            self._series[key] = (
                self._metrics.cloud_calls.labels(self._account, method, route, told),
                self._metrics.cloud_call_seconds.labels(self._account, method, route),
            )
        calls, times = self._series[key]
        calls.inc()
        times.observe(seconds)


class _Requests(Collector):
    """Requests and their times: `Counter` and `Histogram` cost five times as much."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        #: By method and route: how many lie in each bucket, and last the sum of all.
        self._seconds: defaultdict[tuple[str, ...], list[float]] = defaultdict(
            lambda: [0.0] * (len(QUICK) + 2)
        )

    def answered(self, member: str, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is a template. Websockets have no time."""
        self._counts[member, method, route, _CLASSES[status // 100]] += 1
        if status != 101:
            buckets = self._seconds[method, route]
            buckets[bisect_left(QUICK, seconds)] += 1
            buckets[-1] += seconds

    def describe(self) -> Iterable[Family]:
        """Nothing: the registry need not collect to know the names."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Both families."""
        row = find("requests")
        counts = CounterMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
        for labels, count in self._counts.items():
            counts.add_metric(labels, count)
        yield counts
        row = find("request_seconds")
        times = HistogramMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
        bounds = [*map(str, QUICK), "+Inf"]
        for labels, (*buckets, total) in self._seconds.items():
            times.add_metric(labels, list(zip(bounds, accumulate(buckets), strict=True)), total)
        yield times


class _Collected(Collector):
    """Families that have been collected already."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


# --- what is observed of the clouds --------------------------------------------------------

#: Different surprises that a process keeps of one account; more are counted as `other`.
MOST_SURPRISES = 200

#: Seconds in which what is new is gathered, and after which what other processes wrote is read.
_GATHER, _READ = 1.0, 60.0

#: The key of the account that is set by itself.
_DEFAULT = "default"


def identity_of(account: str, base_url: URL) -> str:
    """An account's name at another cloud is another account; older stores had one for each."""
    return str(base_url) if account == _DEFAULT else f"{base_url} {account}"


class AccountObservations(Struct, eq=False):
    """What is known of one account's cloud. `facts` are observations of the probe by point."""

    account: str = ""
    metrics: Metrics = field(default_factory=Metrics)
    facts: dict[str, str] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    _surprises: dict[tuple[str, str], Observation] = field(default_factory=dict)
    _learnt: set[str] = field(default_factory=set)
    _counts: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def number(self, name: str) -> int | None:
        """A fact that is a whole number."""
        value = self.facts.get(name, "")
        return int(value) if re.fullmatch("[0-9]{1,15}", value) else None

    def learn(self, name: str, value: str) -> None:
        """A fact was measured."""
        if self.facts.get(name) != value:
            self.facts[name] = value
            self._learnt.add(name)
            self.news.set()
            log.info("cloud_fact_learned", account=self.account, name=name, value=value)

    def surprise(self, kind: str, name: str, example: object = None) -> None:
        """Something of a form came that nobody has listed.

        `name` says which: what the cloud has chosen in it went through `word`.
        """
        key, now = (kind, name), _now()
        if key not in self._surprises and len(self._surprises) >= MOST_SURPRISES:
            key, example = ("other", ""), None
        known = self._surprises.get(key)
        if known is None:
            value = codec.dump_bytes(without_secrets(example))
            known = Observation("", *key, value, count=0, first_at=now, last_at=now)
            log.warning("cloud_surprised", account=self.account, kind=kind, name=name)
        self._surprises[key] = replace(known, last_at=now)
        self._counts[key] += 1
        self.news.set()
        self.metrics.surprised(self.account, key[0])

    def take(self) -> list[Observation]:
        """What is new since the last call; counts are those since then."""
        rows = [replace(self._surprises[key], count=count) for key, count in self._counts.items()]
        for name in self._learnt:
            value, now = codec.dump_bytes(self.facts[name]), _now()
            rows.append(Observation("", FACT, name, value, count=1, first_at=now, last_at=now))
        self._learnt.clear()
        self._counts.clear()
        return rows

    def give_back(self, rows: Iterable[Observation]) -> None:
        """Rows that were taken could not be written: they are new still."""
        for row in rows:
            if row.kind == FACT:
                self._learnt.add(row.name)
            else:
                self._counts[row.kind, row.name] += row.count

    def restore(self, rows: Iterable[Observation]) -> None:
        """Take over what is written."""
        for row in rows:
            if row.kind != FACT:
                self._surprises.setdefault((row.kind, row.name), row)
            elif row.name not in self._learnt:
                self.facts[row.name] = str(codec.loads(row.value))


class Observations:
    """The observations of all accounts, kept in the database, which other processes may share."""

    def __init__(
        self, repository: ObservationRepository, accounts: dict[str, AccountObservations]
    ) -> None:
        self._repository = repository
        self.accounts = accounts  # by identity
        self._news = asyncio.Event()
        for one in accounts.values():
            one.news = self._news

    async def close(self) -> None:
        """Write what is new."""
        try:
            await self.write()
        except StorageError as error:
            log.warning("observations_save_failed", error=str(error))

    async def load(self) -> None:
        """Read what is known. Raises `StorageError`."""
        rows = await self._repository.load(self.accounts)
        for identity, one in self.accounts.items():
            one.restore(row for row in rows if row.identity == identity)

    async def run(self) -> None:
        """Write what is new, and read what others have seen, until cancelled."""
        while True:
            self._news.clear()
            try:
                async with asyncio.timeout(_READ):
                    await self._news.wait()
                await asyncio.sleep(_GATHER)
                await self.write()
            except TimeoutError:
                try:
                    await self.load()
                except StorageError as error:
                    log.warning("observations_load_failed", error=str(error))
            except StorageError as error:
                log.warning("observations_save_failed", error=str(error))
                await asyncio.sleep(_READ)

    async def write(self) -> None:
        """Write what is new. Raises `StorageError`; then it is new still."""
        taken = {identity: one.take() for identity, one in self.accounts.items()}
        try:
            await self._repository.add(
                [replace(row, identity=identity) for identity in taken for row in taken[identity]]
            )
        except StorageError:
            for identity, rows in taken.items():
                self.accounts[identity].give_back(rows)
            raise

    async def report(self) -> list[dict[str, Any]]:
        """`{"account", "facts", "surprises": [...]}` for each, from the database; see `shown`."""
        await self.write()
        rows = await self._repository.load(self.accounts)
        return [
            {"account": one.account, **shown(row for row in rows if row.identity == identity)}
            for identity, one in self.accounts.items()
        ]


async def keep_facts(database: Database, identity: str, facts: Mapping[str, str]) -> None:
    """Write what a probe has measured of an account. Raises `StorageError`."""
    one = AccountObservations()
    for name, value in facts.items():
        one.learn(name, value)
    rows = [replace(row, identity=identity) for row in one.take()]
    await ObservationRepository(database).add(rows)


def shown(rows: Iterable[Observation]) -> dict[str, Any]:
    """`{"facts": {name: value}, "surprises": [{"kind", "name", "count", "first", "last",
    "example"}]}`; times are ms since 1970."""
    facts, surprises = {}, []
    for row in rows:
        value = codec.loads(row.value)
        if row.kind == FACT:
            facts[row.name] = value
        else:
            seen = {"count": row.count, "first": row.first_at, "last": row.last_at}
            surprises.append({"kind": row.kind, "name": row.name, **seen, "example": value})
    return {"facts": facts, "surprises": surprises}


def _now() -> int:
    return time.time_ns() // 1_000_000
