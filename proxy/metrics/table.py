"""The table of the metrics; `docs/metrics.md` has the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "comfy_cloud_proxy_"

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Metric:
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


METRICS = (
    Metric("build", "info", ("version",), "The version of the proxy."),
    # requests
    Metric(
        "requests",
        "counter",
        ("member", "method", "route", "status"),
        "Answered requests; status is a class such as 2xx. Without a valid token member is empty.",
    ),
    Metric(
        "request_seconds",
        "histogram",
        ("method", "route"),
        "Time from a request's headers to the end of its handler; without websockets.",
    ),
    Metric("websocket_clients", "gauge", ("member",), "Open websockets."),
    Metric(
        "previews_dropped",
        "counter",
        ("member",),
        "Previews left out for a websocket whose client reads too slowly.",
    ),
    Metric("bytes_uploaded", "counter", ("member",), "Bytes of files taken from clients."),
    Metric("bytes_served", "counter", ("member",), "Bytes of files sent to clients."),
    Metric(
        "limit_refusals",
        "counter",
        ("member", "limit"),
        "Requests and jobs refused because of a limit of the member.",
    ),
    # jobs
    Metric("jobs_accepted", "counter", ("member",), "Jobs taken in."),
    Metric(
        "jobs_ended",
        "counter",
        ("member", "account", "outcome"),
        "Jobs that have ended: completed, failed or cancelled; withdrawn ones left the queue "
        "while they waited.",
    ),
    Metric(
        "jobs",
        "gauge",
        ("member", "account", "state"),
        "Jobs that have not ended: waiting in the proxy, sending to the cloud, pending or running "
        "there. Without an account account is empty.",
    ),
    Metric(
        "queue_length",
        "gauge",
        ("member",),
        "Jobs that wait or run, as queue_remaining tells the member's clients.",
    ),
    Metric(
        "job_wait_seconds",
        "histogram",
        ("member", "account"),
        "Time from the acceptance of a job to its submission to the cloud.",
    ),
    Metric(
        "job_running_seconds",
        "histogram",
        ("member", "account"),
        "Time that ended jobs were running on the cloud.",
    ),
    # accounts
    Metric(
        "account_slots",
        "gauge",
        ("account",),
        "Jobs that the account runs at once, as set or as learnt.",
    ),
    Metric("account_slots_used", "gauge", ("account",), "Jobs of ours that run on the account."),
    Metric(
        "account_ready",
        "gauge",
        ("account", "reason"),
        "1 if the account takes jobs, 0 if it rests, for the reason named.",
    ),
    Metric("event_socket_up", "gauge", ("account",), "1 if the account's event socket is open."),
    Metric(
        "cloud_calls",
        "counter",
        ("account", "method", "route", "status"),
        "Calls to Comfy Cloud; status none: no answer came.",
    ),
    Metric(
        "cloud_call_seconds",
        "histogram",
        ("account", "method", "route"),
        "Time from a call to the headers of its answer.",
    ),
    Metric("cloud_bytes_uploaded", "counter", ("account",), "Bytes of files sent to the cloud."),
    Metric(
        "cloud_bytes_downloaded", "counter", ("account",), "Bytes of files fetched from the cloud."
    ),
    # files
    Metric("cache_hits", "counter", (), "Contents found in the cache on disk."),
    Metric("cache_misses", "counter", (), "Contents that had to be fetched from the cloud."),
    Metric("cache_bytes", "gauge", (), "Bytes in the cache on disk."),
)


def lines() -> list[str]:
    """The table in Markdown."""
    head = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    return head + [
        f"| `{metric.shown}` | {metric.kind} | "
        f"{', '.join(f'`{label}`' for label in metric.labels)} | {metric.help} |"
        for metric in METRICS
    ]
