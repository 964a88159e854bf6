"""What a tracker is told, and what it says is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from proxy.jobs.record import Outcome
from proxy.translate.messages import CloudFrame, Message
from proxy.translate.snapshot import Snapshot

# --- what happened -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """An event of the cloud; the file names in its `output` are local ones already."""

    type: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot of the job; the file names in its `outputs` are local ones already.

    `detail` tells the job's own answer, which has all there is, from an entry of a list.
    """

    snapshot: Snapshot
    detail: bool = True


@dataclass(frozen=True, slots=True)
class Settle:
    """Reading the detail has been given up: end with what is known, if the end is known.

    `lost` says that the job cannot go on; `reason` is then told to the client if nothing better
    is known.
    """

    reason: str
    lost: bool = False


Happening: TypeAlias = CloudEvent | CloudFrame | Seen | Settle


# --- what to do ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tell:
    """Deliver a message about the job."""

    message: Message


@dataclass(frozen=True, slots=True)
class Started:
    """The job runs now: it moves from the pending to the running ones (`at` in ms)."""

    at: int


@dataclass(frozen=True, slots=True)
class ReadDetail:
    """Read the job's detail, again and again with growing waits, until it has ended."""


@dataclass(frozen=True, slots=True)
class Record:
    """Keep how the job ended, on disk, before anything that follows is done (times in ms)."""

    outcome: Outcome
    outputs: dict[str, Any]
    status: dict[str, Any]
    meta: dict[str, Any]
    started_at: int
    ended_at: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The job leaves the queue; the `status` that tells so goes out now."""


Command: TypeAlias = Tell | Started | ReadDetail | Record | Ended
