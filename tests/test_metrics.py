"""Metrics are read from what the rooms have counted, in Prometheus' formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.admin.metrics import Gauges
from proxy.jobs.models import AccountView
from proxy.metrics import MAX_EXPECTED, METRICS, PREFIX, QUICK, Metrics
from proxy.sharing.budget import MemoryBudget
from proxy.sharing.pool import Pool


@dataclass
class Job:
    member: str
    account: str
    state: str = "queued"


@dataclass
class Cache:
    hits: int = 3
    misses: int = 1
    total: int = 4096


@dataclass
class Jobs:
    jobs: list[Job]
    waiting: dict[str, int]

    def live(self) -> list[Job]:
        return self.jobs

    def queue_remaining(self, member: str) -> int:
        return self.waiting[member]


def gauges(
    jobs: Jobs, *accounts: AccountView, cache: Cache | None = None, members: Sequence[str] = ()
) -> Gauges:
    cache, pools = cache or Cache(), {"streams": Pool(10, 1)}
    return Gauges(jobs, lambda: accounts, cache, MemoryBudget(1), pools, lambda: members)  # type: ignore[arg-type]


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.answered("alice", "GET", "/view", 200, 0.003)
    metrics.answered("bob", "GET", "/view", 404, 0.001)
    metrics.answered("", "GET", "/queue", 401, 0.001)
    metrics.answered("alice", "GET", "/ws", 101, 3600.0)
    metrics.websockets.labels("alice").inc()
    metrics.previews_dropped.labels("alice").inc(2)
    metrics.uploaded.labels("alice").inc(10)
    metrics.served.labels("bob").inc(20)
    metrics.limit_refusals.labels("bob", "jobs_per_day").inc()
    metrics.jobs_accepted.labels("alice").inc()
    metrics.job_wait.labels("alice", "main").observe(1.5)
    metrics.jobs_ended.labels("alice", "main", "completed").inc()
    metrics.job_running.labels("alice", "main").observe(12.0)
    metrics.jobs_ended.labels("bob", "", "withdrawn").inc()
    calls = metrics.calls("main")
    calls.observe("GET", "/api/jobs/{id}", 200, 0.2)
    calls.downloaded(77)
    live = [Job("alice", "main", "running"), Job("alice", ""), Job("bob", "main", "running")]
    account = AccountView("main", 1, 0, None, None, events=True)
    metrics.registry.register(gauges(Jobs(live, {"alice": 2, "bob": 1}), account))
    return metrics


#: In the order of the table, for short names in the tests.
ORDER = ("member", "account", "method", "route", "status", "limit", "outcome", "state")


def short(name: str, labels: dict[str, str]) -> str:
    known = [labels[label] for label in ORDER if label in labels]
    rest = [value for label, value in labels.items() if label not in ORDER]
    return " ".join([name.removeprefix(PREFIX), *known, *rest])


async def samples(metrics: Metrics, member: str | None = None) -> dict[str, float]:
    body, _ = await metrics.page("", member=member)
    return {
        short(sample.name, sample.labels): sample.value
        for family in parse_text(body.decode())
        for sample in family.samples
    }


async def test_everything_is_there_for_who_may_see_it(metrics: Metrics) -> None:
    found = await samples(metrics)
    assert found["requests_total alice GET /view 2xx"] == 1
    assert found["requests_total bob GET /view 4xx"] == 1
    assert found["request_seconds_count GET /view"] == 2
    assert "request_seconds_count GET /ws" not in found
    assert found["jobs alice main running"] == 1
    assert found["jobs alice  waiting"] == 1
    assert found["queue_length alice"] == 2
    assert found["account_slots_used main"] == 2
    assert found["account_ready main "] == 1
    assert found["event_socket_up main"] == 1
    assert found["job_wait_seconds_bucket alice main 5.0"] == 1
    assert found["job_wait_seconds_bucket alice main 1.0"] == 0
    assert found["jobs_ended_total alice main completed"] == 1
    assert found["jobs_ended_total bob  withdrawn"] == 1
    assert found["cloud_calls_total main GET /api/jobs/{id} 200"] == 1
    assert found["cloud_bytes_downloaded_total main"] == 77
    assert (found["cache_hits_total"], found["cache_bytes"]) == (3, 4096)
    assert found["process_resident_memory_bytes"] > 0


async def test_a_member_sees_what_is_its_own_and_nothing_else(metrics: Metrics) -> None:
    found = await samples(metrics, "bob")
    assert found["bytes_served_total bob"] == 20
    assert found["limit_refusals_total bob jobs_per_day"] == 1
    body, _ = await metrics.page("", member="bob")
    for family in parse_text(body.decode()):
        assert all(sample.labels["member"] == "bob" for sample in family.samples)
    assert b"alice" not in body
    assert await samples(metrics, "carol") == {}


@pytest.mark.parametrize(
    ("accept", "type_"),
    [
        ("", "text/plain"),
        ("text/plain;version=0.0.4", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics"),
    ],
)
async def test_the_format_is_the_one_that_is_asked_for(
    metrics: Metrics, accept: str, type_: str
) -> None:
    body, media_type = await metrics.page(accept)
    assert media_type.startswith(type_)
    parse = parse_openmetrics if "openmetrics" in type_ else parse_text
    assert PREFIX + "requests" in {family.name for family in parse(body.decode())}


@given(st.lists(st.floats(0, 1e6)))
def test_a_request_is_counted_by_every_bound_that_its_time_does_not_exceed(
    times: list[float],
) -> None:
    metrics = Metrics()
    for seconds in times:
        metrics.answered("alice", "GET", "/view", 200, seconds)
    name, labels = PREFIX + "request_seconds", {"method": "GET", "route": "/view"}
    for bound in QUICK:
        found = metrics.registry.get_sample_value(f"{name}_bucket", {**labels, "le": str(bound)})
        assert (found or 0) == sum(seconds <= bound for seconds in times)
    assert (metrics.registry.get_sample_value(f"{name}_count", labels) or 0) == len(times)


async def test_all_that_is_known_at_the_start_is_there_as_zero() -> None:
    metrics = Metrics()
    account = AccountView("main", 1, 0, None, None, events=True)
    jobs = Jobs([], {"alice": 0, "bob": 0})
    metrics.registry.register(gauges(jobs, account, members=["alice", "bob"]))
    metrics.calls("main").expect([("POST", "/api/prompt")])
    metrics.expect(["alice"], ["main"])
    metrics.expect(["alice", "bob"], ["main"])
    found = await samples(metrics)
    for series in (
        "jobs bob  waiting",
        "jobs bob  running",
        "queue_length bob",
        "websocket_clients bob",
        "previews_dropped_total bob",
        "bytes_uploaded_total bob",
        "bytes_served_total bob",
        "limit_refusals_total bob jobs_per_day",
        "jobs_accepted_total bob",
        "jobs_ended_total bob main failed",
        "jobs_ended_total bob  withdrawn",
        "job_wait_seconds_count bob main",
        "job_running_seconds_bucket bob main 60.0",
        "credits_used_total bob main  estimated",
        "cloud_calls_total main POST /api/prompt 429",
        "cloud_anomalies_total main event",
    ):
        assert found[series] == 0, series


async def test_a_large_gateway_does_not_export_every_pair_of_member_and_account() -> None:
    metrics = Metrics()
    metrics.expect([f"member{number}" for number in range(MAX_EXPECTED)], ["one", "two"])
    waits = [name for name in await samples(metrics) if name.startswith("job_wait_seconds_count")]
    assert len(waits) == MAX_EXPECTED


async def test_the_first_error_of_a_route_follows_a_zero() -> None:
    metrics = Metrics()
    metrics.answered("alice", "GET", "/view", 200, 0.003)
    assert (await samples(metrics))["requests_total alice GET /view 5xx"] == 0


async def test_a_term_shows_what_is_counted_for_its_process_and_nothing_of_other_terms() -> None:
    process = Metrics()
    terms = [Metrics(process), Metrics(process)]
    terms[0].served.labels("alice").inc()
    process.leadership_handovers.labels("taken").inc()
    pages = [(await term.page(""))[0].decode() for term in terms]
    counted = 'comfy_cloud_proxy_leadership_handovers_total{direction="taken"} 1.0'
    assert [counted in page for page in pages] == [True, True]
    assert ["alice" in page for page in pages] == [True, False]


async def test_two_applications_in_one_process_do_not_share_metrics(metrics: Metrics) -> None:
    other = Metrics()
    other.registry.register(gauges(Jobs([], {}), cache=Cache(0, 0, 0)))
    assert "requests_total alice GET /view 2xx" not in await samples(other)


async def test_every_metric_is_in_the_table_and_every_row_is_a_metric(metrics: Metrics) -> None:
    body, _ = await metrics.page("")
    ours = {
        (family.name.removeprefix(PREFIX).removesuffix("_info"), family.type, family.documentation)
        for family in parse_text(body.decode())
        if family.name.startswith(PREFIX)
    }
    in_text = {"info": "gauge"}
    assert ours == {
        (metric.name, in_text.get(metric.kind, metric.kind), metric.help) for metric in METRICS
    }


async def test_series_have_the_labels_of_the_table(metrics: Metrics) -> None:
    labels = {PREFIX + metric.name: set(metric.labels) for metric in METRICS}
    body, _ = await metrics.page("")
    for family in parse_text(body.decode()):
        for sample in family.samples if family.name in labels else ():
            assert set(sample.labels) - {"le"} == labels[family.name]
