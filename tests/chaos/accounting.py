"""What a run of chaos comes to: jobs on the cloud beside what the clients were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

#: The key under which the proxy puts its mark into `extra_data`.
MARK = "comfy_cloud_proxy"


class Sums:
    """Counts of a run, as the fields of a dataclass. Those of `FAULTS` must be zero."""

    FAULTS: ClassVar[tuple[str, ...]] = ()

    def faults(self) -> dict[str, int]:
        """What should be zero and is not."""
        return {name: count for name in self.FAULTS if (count := getattr(self, name))}

    def table(self) -> str:
        """All counts, a line each."""
        values = asdict(self)  # type: ignore[call-overload]
        return "\n".join(f"{name.replace('_', ' '):<28}{values[name]:>8}" for name in values)


@dataclass
class Submission:
    """What one client learned of one of its jobs.

    `accepted`: its submission was answered with 200, or the job was found in the proxy's records
    after the answer had got lost. `refused`: it was answered otherwise, or not sent, and must not
    run. `late` says that it was given up, and found after its repetition had been accepted, too.
    `ends` are the ends that the websocket told, `types` all that it told; `whole` says that it was
    open all the time. `recorded` is the status of the history entry, `invisible` how often the job
    was in neither the queue nor the history, `bytes_checked` whether its picture was the right one.
    `member` is whose it is, `interrupted` says that it may have ended before it reached the cloud.
    It was `sent`, and its end was `seen` in the
    history, at times of the event loop.
    """

    prompt_id: str
    member: str = ""
    interrupted: bool = False
    sent: float = 0.0
    seen: float | None = None
    accepted: bool = False
    refused: bool = False
    late: bool = False
    ends: list[str] = field(default_factory=list)
    types: set[str] = field(default_factory=set)
    whole: bool = False
    invisible: int = 0
    recorded: str | None = None
    bytes_checked: bool = False
    wrong_bytes: bool = False
    disorder: list[str] = field(default_factory=list)

    @property
    def unheard(self) -> bool:
        """Whether a socket that was open all the time was not told the end."""
        return self.whole and self.recorded is not None and not self.ends

    @property
    def incomplete(self) -> bool:
        """Whether such a socket was told of a success without the start, or without the output."""
        due = {"execution_start", "executed"}
        return self.whole and self.ends == ["execution_success"] and not due <= self.types


@dataclass(frozen=True)
class Accounting(Sums):
    """The counts of jobs, those of `FAULTS` last. `late` ones are among the `accepted`, and so are
    those that somebody has `interrupted`, of which some were `interrupted_before` they reached the
    cloud."""

    FAULTS = (
        "submitted_twice",
        "lost",
        "strangers",
        "without_end",
        "ended_twice",
        "out_of_order",
        "unheard",
        "incomplete",
        "invisible",
        "wrong_bytes",
        "bytes_missing",
        "internal_errors",
        "impatient",
        "broken_promises",
    )

    accepted: int
    late: int
    refused: int
    on_the_cloud: int
    interrupted: int
    interrupted_before: int
    ended: int
    outputs_checked: int
    submitted_twice: int
    lost: int
    strangers: int
    without_end: int
    ended_twice: int
    out_of_order: int
    unheard: int
    incomplete: int
    invisible: int
    wrong_bytes: int
    bytes_missing: int
    internal_errors: int
    impatient: int
    broken_promises: int


@dataclass(frozen=True)
class Results:
    """What a run has come to: its jobs, and whatever else was counted."""

    jobs: Accounting
    others: tuple[Sums, ...] = ()

    def faults(self) -> dict[str, int]:
        """What should be zero and is not."""
        return {
            name: count
            for sums in (self.jobs, *self.others)
            for name, count in sums.faults().items()
        }

    def table(self) -> str:
        """All counts, a line each."""
        return "\n".join(sums.table() for sums in (self.jobs, *self.others))


def account(
    submissions: Iterable[Submission],
    cloud_jobs: Iterable[Mapping[str, Any]],
    internal_errors: int,
    impatient: int = 0,
    broken_promises: int = 0,
) -> Accounting:
    """Compare. `cloud_jobs` are the `extra_data` of all jobs that the cloud ever took; `impatient`
    counts answers of 503 without `Retry-After`, `broken_promises` whatever else should not be."""
    marks = Counter(prompt_id_of(extra_data) for extra_data in cloud_jobs)
    jobs = list(submissions)
    accepted = {job.prompt_id: job for job in jobs if job.accepted}
    never_sent = [job for id_, job in accepted.items() if id_ not in marks]
    lost = sum(not job.interrupted for job in never_sent)
    ended = [job for job in accepted.values() if job.recorded is not None]
    succeeded = [job for job in ended if job.recorded == "success"]
    return Accounting(
        accepted=len(accepted),
        late=sum(job.late for job in accepted.values()),
        refused=sum(job.refused for job in jobs),
        on_the_cloud=marks.total(),
        interrupted=sum(job.interrupted for job in accepted.values()),
        interrupted_before=len(never_sent) - lost,
        ended=len(ended),
        outputs_checked=sum(job.bytes_checked for job in jobs),
        submitted_twice=sum(count > 1 for count in marks.values()),
        lost=lost,
        strangers=sum(prompt_id not in accepted for prompt_id in marks),
        without_end=len(accepted) - len(ended),
        ended_twice=sum(len(job.ends) > 1 for job in jobs),
        out_of_order=sum(bool(job.disorder) for job in jobs),
        unheard=sum(job.unheard for job in accepted.values()),
        incomplete=sum(job.incomplete for job in accepted.values()),
        invisible=sum(job.invisible for job in accepted.values()),
        wrong_bytes=sum(job.wrong_bytes for job in jobs),
        bytes_missing=len(succeeded) - sum(job.bytes_checked for job in succeeded),
        internal_errors=internal_errors,
        impatient=impatient,
        broken_promises=broken_promises,
    )


def prompt_id_of(extra_data: Mapping[str, Any]) -> str:
    """The local id of a job that the cloud took."""
    return str(extra_data.get(MARK, "//")).split("/")[1]
