"""What a run of chaos comes to: jobs on the cloud beside what the clients were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

#: The key under which the proxy puts its mark into `extra_data`.
MARK = "comfy_cloud_proxy"

#: The sums that must be zero.
FAULTS = (
    "submitted_twice",
    "lost",
    "strangers",
    "without_end",
    "ended_twice",
    "out_of_order",
    "wrong_bytes",
    "bytes_missing",
    "internal_errors",
)


@dataclass
class Told:
    """What one client learned of one of its jobs.

    `accepted`: its submission was answered with 200, or the job was found in the proxy's records
    after the answer had got lost. `refused`: it was answered otherwise, or not sent, and must not
    run. `ends` are the ends that the websocket told, `recorded` is the status of the history entry,
    `bytes_checked` whether its picture was the right one.
    """

    prompt_id: str
    accepted: bool = False
    refused: bool = False
    ends: list[str] = field(default_factory=list)
    recorded: str | None = None
    bytes_checked: bool = False
    wrong_bytes: bool = False
    disorder: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Accounting:
    """The sums, those of `FAULTS` last."""

    accepted: int
    refused: int
    on_the_cloud: int
    ended: int
    outputs_checked: int
    submitted_twice: int
    lost: int
    strangers: int
    without_end: int
    ended_twice: int
    out_of_order: int
    wrong_bytes: int
    bytes_missing: int
    internal_errors: int

    def faults(self) -> dict[str, int]:
        """What should be zero and is not."""
        return {name: count for name in FAULTS if (count := getattr(self, name))}

    def table(self) -> str:
        """All sums, a line each."""
        names = [each.name for each in fields(self)]
        return "\n".join(f"{name.replace('_', ' '):<28}{getattr(self, name):>8}" for name in names)


def account(
    told: Iterable[Told], cloud_jobs: Iterable[Mapping[str, Any]], internal_errors: int
) -> Accounting:
    """Compare. `cloud_jobs` are the `extra_data` of all jobs that the cloud ever took."""
    marks = Counter(prompt_id_of(extra_data) for extra_data in cloud_jobs)
    jobs = list(told)
    accepted = {job.prompt_id: job for job in jobs if job.accepted}
    ended = [job for job in accepted.values() if job.recorded is not None]
    succeeded = [job for job in ended if job.recorded == "success"]
    return Accounting(
        accepted=len(accepted),
        refused=sum(job.refused for job in jobs),
        on_the_cloud=marks.total(),
        ended=len(ended),
        outputs_checked=sum(job.bytes_checked for job in jobs),
        submitted_twice=sum(count > 1 for count in marks.values()),
        lost=sum(prompt_id not in marks for prompt_id in accepted),
        strangers=sum(prompt_id not in accepted for prompt_id in marks),
        without_end=len(accepted) - len(ended),
        ended_twice=sum(len(job.ends) > 1 for job in jobs),
        out_of_order=sum(bool(job.disorder) for job in jobs),
        wrong_bytes=sum(job.wrong_bytes for job in jobs),
        bytes_missing=len(succeeded) - sum(job.bytes_checked for job in succeeded),
        internal_errors=internal_errors,
    )


def prompt_id_of(extra_data: Mapping[str, Any]) -> str:
    """The local id of a job that the cloud took."""
    return str(extra_data.get(MARK, "//")).split("/")[1]
