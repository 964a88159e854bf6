"""Things that go wrong, on demand: in answers, on sockets, in jobs.

sim.faults.add(HttpFault("POST /api/prompt", reset=True, processed=True))
sim.faults.add(HttpFault("GET storage", cut=1000, ending="reset"), times=3)
sim.faults.add(SocketFault("lose", event="executed"), times=None, chance=0.1)
sim.faults.add(JobFault("lost", after=4))
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class _HttpEffects:
    delay: float = 0.0
    status: int | None = None
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    reset: bool = False
    processed: bool = False
    cut: int | None = None
    ending: Literal["clean", "close", "reset"] = "close"
    corrupt: bool = False
    drip: float = 0.0
    drip_bytes: int = 1024


@dataclass(frozen=True, slots=True)
class HttpFault(_HttpEffects):
    """A fault of an answer, with a `key` only of answers to those who have offered it.

    `route` is a pattern (`*` matches anything) over the route as `sim.calls` counts it
    (`GET /api/jobs/{id}`) and over method and path as sent; the storage origin is
    `GET storage`. In this order:

    * `delay`: seconds before anything is done;
    * `reset`: the connection is reset instead of an answer; `status` (with `body`, `headers`):
      this answer instead of the real one. With `processed` the request takes effect before;
    * `cut`: only this many bytes of the body are sent. `ending`: "clean" with a `Content-Length`
      that fits the short body, "close" with that of the whole body and an end of the stream,
      "reset" with that of the whole body and a reset;
    * `corrupt`: the last byte is another one;
    * `drip`: seconds between pieces of `drip_bytes` bytes.
    """

    route: str
    key: str | None = None


SocketKind: TypeAlias = Literal[
    "drop",
    "close",
    "refuse",
    "stall",
    "duplicate",
    "reorder",
    "lose",
    "garbage",
    "oversized",
    "delay",
]


@dataclass(frozen=True, slots=True)
class SocketFault:
    """A fault of an event socket, when a message of the type `event` (a pattern) is due.

    Binary messages have the types `preview` and `text`. `drop`: reset; `close`: with `code`;
    `stall`: open, but nothing comes, not even pongs; `duplicate`: sent twice; `reorder`:
    sent behind the next one; `lose`: not sent; `garbage`: a text and a binary message without
    sense come first; `oversized`: a binary message of `size` bytes comes first; `delay`: this and
    all behind it wait `seconds`. `refuse` concerns the handshake, which is answered by `status`.
    """

    kind: SocketKind
    event: str = "*"
    code: int = 1011
    status: int = 503
    seconds: float = 0.1
    size: int = 80 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class JobFault:
    """A fault of the next job that starts, after this many steps of its run.

    `lost`: nothing more is heard, then its state is `lost`; `service_error`: `execution_error`
    without a node and the state `non_retryable_error`; `hang`: it continues until it is cancelled;
    `retried`: `retryable_error`, then it runs again from the start.
    """

    kind: Literal["lost", "service_error", "hang", "retried"]
    after: int = 2


Fault: TypeAlias = HttpFault | SocketFault | JobFault
_Kind = TypeVar("_Kind", HttpFault, SocketFault, JobFault)


@dataclass(eq=False, slots=True)
class Planned:
    """A fault that was added. `times` is how often it still happens (`None`: always); the first
    `skip` occasions pass; of the others it takes each with probability `chance`.
    """

    fault: Fault
    times: int | None
    skip: int
    chance: float
    happened: int = 0


class Faults:
    """The faults that are planned. `random` decides about chances; seed it for a repeatable run."""

    def __init__(self) -> None:
        self.planned: list[Planned] = []
        self.random = random.Random(0)  # noqa: S311 - chances, not secrets

    def add(
        self, fault: Fault, *, times: int | None = 1, skip: int = 0, chance: float = 1.0
    ) -> Planned:
        """Plan a fault; of several that fit an occasion the one added first happens."""
        planned = Planned(fault, times, skip, chance)
        self.planned.append(planned)
        return planned

    def remove(self, planned: Planned) -> None:
        """Take one back; does nothing if it is used up."""
        if planned in self.planned:
            self.planned.remove(planned)

    def clear(self) -> None:
        """Take all back."""
        self.planned.clear()

    def http(self, *names: str, key: str | None = None) -> HttpFault | None:
        """Return the fault for an answer to who offered `key`, which has happened then."""
        return self._take(
            HttpFault,
            lambda fault: (
                fault.key in (None, key) and any(fnmatchcase(name, fault.route) for name in names)
            ),
        )

    def handshake(self) -> SocketFault | None:
        """Return the fault for a new socket."""
        return self._take(SocketFault, lambda fault: fault.kind == "refuse")

    def socket(self, event: str) -> SocketFault | None:
        """Return the fault for a message on a socket."""
        return self._take(
            SocketFault, lambda fault: fault.kind != "refuse" and fnmatchcase(event, fault.event)
        )

    def job(self) -> JobFault | None:
        """Return the fault for a job that starts."""
        return self._take(JobFault, lambda _: True)

    def _take(self, kind: type[_Kind], fits: Callable[[_Kind], bool]) -> _Kind | None:
        for planned in self.planned:
            fault = planned.fault
            if not isinstance(fault, kind) or not fits(fault):
                continue
            if planned.skip > 0:
                planned.skip -= 1
                continue
            if planned.chance < 1.0 and self.random.random() >= planned.chance:
                continue
            planned.happened += 1
            if planned.times is not None:
                planned.times -= 1
                if planned.times <= 0:
                    self.planned.remove(planned)
            return fault
        return None
