"""What the proxy counts, for Prometheus.

One event loop counts and reads. What happens often keeps its series at hand, and requests, which
are counted more often than everything else together, are counted without the locks of the library.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, product
from typing import Any, Literal, TypeVar, cast

import structlog
from msgspec import Struct
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

from proxy import __version__

log = structlog.get_logger(__name__)

Kept = TypeVar("Kept", bound=MetricWrapperBase)

PREFIX = "comfy_cloud_proxy_"

disable_created_metrics()  # type: ignore[no-untyped-call] # when a series was made

#: Bounds in seconds for answers and calls.
QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Bounds in seconds for jobs.
SLOW = (0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)

_CLASSES = ("other", "1xx", "2xx", "3xx", "4xx", "5xx", *("other",) * 4)

#: The classes that every route that was asked for has from its first request on.
_USUAL_CLASSES = ("2xx", "4xx", "5xx")

#: The statuses of calls to the cloud that are exported from the start.
_USUAL_STATUSES = ("200", "429", "none")

#: How a job may end, and which limits of a member refuse something.
OUTCOMES = ("completed", "failed", "cancelled", "withdrawn")
LIMITS = (
    "max_queued",
    "jobs_per_day",
    "upload_bytes_per_day",
    "stored_bytes",
    "requests_per_second",
    "credits_per_day",
    "credits_per_month",
)

#: What kinds of undocumented answers and events there are.
ANOMALIES = ("job", "answer", "frame", "event", "other")

#: Pairs of a member and an account that are exported before their first job. Further ones begin
#: with it, so that a scrape of a large gateway stays small.
MAX_EXPECTED = 500

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


#: `name | kind | labels | help`; `make docs` writes them to `docs/metrics.md`.
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
credits_used | counter | member account node_class source | Credits that ended jobs have cost, as \
  reported by Comfy Cloud or estimated. The label node_class is a class of partner nodes, or empty \
  for the GPU.
unknown_costs | counter | member account node_class | Runs of partner nodes without a known price.
budget_credits | gauge | member budget | A budget of the member, named like its limit.
budget_credits_left | gauge | member budget | What is left of this budget in its day or month, \
  without what jobs under way are expected to cost.
account | info | account kind | The kind of the account: cloud, or deployment, which runs own nodes.
account_slots | gauge | account | Jobs that the account runs at once, as configured or discovered.
account_slots_used | gauge | account | Jobs of the proxy that run on the account.
account_plan | gauge | account plan | 1 if Comfy Cloud says that the account has this plan.
account_run_limit_seconds | gauge | account | The longest run of a job on the account's plan.
account_balance | gauge | account currency | The account's balance in whole units of the currency, \
  as Comfy Cloud says it.
account_credits_left | gauge | account source | Credits that are left on the account: reported by \
  Comfy Cloud, or entered by an admin, less what jobs have cost since.
account_ready | gauge | account reason | 1 if the account accepts jobs, 0 if it does not, with the \
  reason.
event_socket_up | gauge | account | 1 if the account's event socket is open.
webhook_attempts | counter | member result | Attempts to deliver a message to a webhook: delivered \
  or failed. The label member is empty for webhooks of the gateway.
leadership_offered | gauge | | 1 while this process leads, cannot reach Comfy Cloud and asks \
  the standbys to take over.
leadership_handovers | counter | direction | How often this process has given the lead to a \
  standby because of that, or has taken it; the label is given or taken.
cloud_calls | counter | account method route status | Calls to Comfy Cloud; the status is none \
  without an answer.
cloud_call_seconds | histogram | account method route | Time from a call to the headers of its \
  answer.
cloud_anomalies | counter | account kind | Undocumented answers and events of Comfy Cloud.
cloud_bytes_uploaded | counter | account | Bytes of files sent to the cloud.
cloud_bytes_downloaded | counter | account | Bytes of files downloaded from the cloud.
cache_hits | counter | | Files found in the disk cache.
cache_misses | counter | | Files that were downloaded from the cloud.
cache_bytes | gauge | | Bytes in the disk cache.
memory_held_bytes | gauge | purpose | Bytes of memory held for clients, by what they are held for.
memory_limit_bytes | gauge | | Bytes of memory that may be held for clients (memory_mb).
pool_used | gauge | pool | Units held of a pool that clients share: connections, streams \
  (websockets and streams of events), or temporary_bytes (files of requests under way).
pool_size | gauge | pool | All units of a pool that clients share.
"""


def _row(line: str) -> Metric:
    name, kind, labels, text = (" ".join(cell.split()) for cell in line.split("|"))
    return Metric(name, cast(Kind, kind), tuple(labels.split()), text)


METRICS = tuple(map(_row, _TABLE.strip().splitlines()))

_BY_NAME = {metric.name: metric for metric in METRICS}


def find(name: str) -> Metric:
    """Return the row of the table with that name."""
    return _BY_NAME[name]


class Metrics:
    """The metrics of one application, in a registry of its own with those of the process.

    Counts since the start. What is read from the rooms at the moment of the scrape is collected by
    those who know them (`registry.register`). Those of a term have what is counted for the whole
    `process`, too.
    """

    def __init__(self, process: Metrics | None = None) -> None:
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
        self.jobs_accepted = self._new(Counter, "jobs_accepted")
        self.jobs_ended = self._new(Counter, "jobs_ended")
        self.job_wait = self._new(Histogram, "job_wait_seconds", buckets=SLOW)
        self.job_running = self._new(Histogram, "job_running_seconds", buckets=SLOW)
        self.credits_used = self._new(Counter, "credits_used")
        self.unknown_costs = self._new(Counter, "unknown_costs")
        self.webhook_attempts = self._new(Counter, "webhook_attempts")
        self._budgets = self._new(Gauge, "budget_credits")
        self._budgets_left = self._new(Gauge, "budget_credits_left")
        self._balances = self._new(Gauge, "account_credits_left")
        if process is None:
            self.leadership_offered = self._new(Gauge, "leadership_offered")
            self.leadership_handovers = self._new(Counter, "leadership_handovers")
            for direction in ("given", "taken"):  # so that Prometheus sees the first of each
                self.leadership_handovers.labels(direction)
        else:
            self.leadership_offered = process.leadership_offered
            self.leadership_handovers = process.leadership_handovers
            self.registry.register(self.leadership_offered)
            self.registry.register(self.leadership_handovers)
        self.cloud_calls = self._new(Counter, "cloud_calls")
        self.cloud_call_seconds = self._new(Histogram, "cloud_call_seconds", buckets=QUICK)
        self.cloud_uploaded = self._new(Counter, "cloud_bytes_uploaded")
        self.cloud_downloaded = self._new(Counter, "cloud_bytes_downloaded")
        self._anomalies = self._new(Counter, "cloud_anomalies")
        self._expected: set[str] = set()
        self._pairs = 0

    def expect(self, members: Iterable[str], accounts: Iterable[str]) -> None:
        """Export the series of these members and accounts as 0, so that Prometheus sees their
        first increment. Calling it again adds the members that are new."""
        accounts = list(accounts)
        for account, kind in product(accounts, ANOMALIES):
            self._anomalies.labels(account, kind)
        for member in members:
            if member in self._expected:
                continue
            self._expected.add(member)
            self._expect_member(member)
            for account in accounts[: MAX_EXPECTED - self._pairs]:
                self._pairs += 1
                self._expect_jobs(member, account)

    def _expect_member(self, member: str) -> None:
        for metric in (
            self.websockets,
            self.previews_dropped,
            self.uploaded,
            self.served,
            self.jobs_accepted,
        ):
            metric.labels(member)
        for limit in LIMITS:
            self.limit_refusals.labels(member, limit)
        for outcome in OUTCOMES:
            self.jobs_ended.labels(member, "", outcome)

    def _expect_jobs(self, member: str, account: str) -> None:
        for outcome in OUTCOMES[:-1]:  # what is withdrawn has no account
            self.jobs_ended.labels(member, account, outcome)
        self.credits_used.labels(member, account, "", "estimated")
        self.job_wait.labels(member, account)
        self.job_running.labels(member, account)

    def _new(self, kind: type[Kept], name: str, **options: Any) -> Kept:
        row = find(name)
        labels = () if kind is Info else row.labels  # an Info takes them with its values
        return kind(PREFIX + name, row.help, labels, registry=self.registry, **options)

    def calls(self, account: str) -> CloudCalls:
        """Return the counter of the calls of an account."""
        return CloudCalls(account, self)

    def count_anomaly(self, account: str, kind: str) -> None:
        """Count something unlisted that the account's cloud did."""
        self._anomalies.labels(account, kind).inc()

    def show_balances(self, balances: Mapping[tuple[str, str], float]) -> None:
        """Set what is left on accounts, in credits, by account and source."""
        self._balances.clear()
        for labels, amount in balances.items():
            self._balances.labels(*labels).set(amount)

    def show_budgets(self, budgets: Mapping[tuple[str, str], tuple[float, float]]) -> None:
        """Set the budgets by member and name: the limit and what is left, in credits."""
        for gauge, place in ((self._budgets, 0), (self._budgets_left, 1)):
            gauge.clear()
            for labels, amounts in budgets.items():
                gauge.labels(*labels).set(amounts[place])

    # --- reading ---------------------------------------------------------------------------

    async def page(
        self, accept: str, *, member: str | None = None, public: bool = False
    ) -> tuple[bytes, str]:
        """Return the text and its media type, by the `Accept` of the request.

        With `member` it holds only what is labelled as this member's, and a `public` one nothing
        that is labelled as a member's or an account's. The text is made in a thread, so that events
        need not wait for it.
        """
        families = list(self.registry.collect())
        if public:
            families = [family for family in families if not _is_about_somebody(family)]
        if member is not None:
            for family in families:
                own = [sample for sample in family.samples if sample.labels.get("member") == member]
                family.samples = own
            families = [family for family in families if family.samples]
        encode, media_type = choose_encoder(accept)
        return await asyncio.to_thread(encode, _Collected(families)), media_type


def _is_about_somebody(family: Family) -> bool:
    return any({"member", "account"} & sample.labels.keys() for sample in family.samples)


class CloudCalls:
    """Counts the calls of one account, and the bytes of its files."""

    def __init__(self, account: str, metrics: Metrics) -> None:
        self._account = account
        self._metrics = metrics
        self.uploaded = metrics.cloud_uploaded.labels(account).inc
        self.downloaded = metrics.cloud_downloaded.labels(account).inc

    def expect(self, routes: Iterable[tuple[str, str]]) -> None:
        """Export the calls of these methods and routes as 0."""
        for (method, route), status in product(routes, _USUAL_STATUSES):
            self._metrics.cloud_calls.labels(self._account, method, route, status)

    def observe(self, method: str, route: str, status: int | None, seconds: float) -> None:
        """Count a call by its route; `status` is `None` if it was not answered.

        `seconds` is the time to the headers of the answer.
        """
        label = "none" if status is None else str(status)
        self._metrics.cloud_calls.labels(self._account, method, route, label).inc()
        self._metrics.cloud_call_seconds.labels(self._account, method, route).observe(seconds)


class _Answers:
    """The number of answers of one member, method, route and class of status."""

    __slots__ = ("count", "times")

    def __init__(self, times: list[float]) -> None:
        self.count = 0
        #: How many took how long, by bucket, and last the sum of all; of the method and route.
        self.times = times


class _Requests(Collector):
    """Requests and their times: `Counter` and `Histogram` cost five times as much."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, str, str], _Answers] = {}
        self._times: defaultdict[tuple[str, str], list[float]] = defaultdict(
            lambda: [0.0] * (len(QUICK) + 2)
        )

    def answered(self, member: str, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; `route` is a template. Websockets have no time."""
        answers = self._answers.get((member, method, route, _CLASSES[status // 100]))
        if answers is None:
            answers = self._expect(member, method, route, _CLASSES[status // 100])
        answers.count += 1
        if status != 101:
            answers.times[bisect_left(QUICK, seconds)] += 1
            answers.times[-1] += seconds

    def _expect(self, member: str, method: str, route: str, class_: str) -> _Answers:
        """Export the usual classes of status as 0. Return the counts of `class_`."""
        for each in (*_USUAL_CLASSES, class_):
            self._answers.setdefault(
                (member, method, route, each), _Answers(self._times[method, route])
            )
        return self._answers[member, method, route, class_]

    def describe(self) -> Iterable[Family]:
        """Return nothing: the registry need not collect to know the names."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Yield both families."""
        row = find("requests")
        counts = CounterMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
        for labels, answers in self._answers.items():
            counts.add_metric(labels, answers.count)
        yield counts
        row = find("request_seconds")
        times = HistogramMetricFamily(PREFIX + row.name, row.help, labels=row.labels)
        bounds = [*map(str, QUICK), "+Inf"]
        for route, (*buckets, total) in self._times.items():
            if any(buckets):
                times.add_metric(route, list(zip(bounds, accumulate(buckets), strict=True)), total)
        yield times


class _Collected(Collector):
    """Families that have been collected already."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families
