"""What is written down of requests: counts, usage, limits and the audit record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from proxy.api.connections import caller_of, connection_of
from proxy.members.audit import Audit, Value
from proxy.members.limiter import Limiter
from proxy.members.usage import Usage
from proxy.metrics import Metrics
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.jobs.models import Job, Outcome

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What is asked by machines that look whether the server is well does not count as a request.
_FREE = frozenset({"/healthz", "/readyz"})


class Observer(Protocol):
    """Is told what becomes of jobs; must neither wait nor fail."""

    def accepted(self, record: Job) -> None:
        """The client is told that its job is in the queue."""

    def dispatched(self, record: Job, waited: float) -> None:
        """The cloud has taken the job, `waited` seconds after the client had sent it."""

    def ended(
        self, record: Job, outcome: Outcome, running_seconds: float, output_count: int
    ) -> None:
        """The job has ended and is in the history."""

    def discarded(self, record: Job) -> None:
        """The job was accepted and has left the queue without a trace."""


@dataclass(frozen=True, slots=True)
class Books:
    """Where the handlers write down what they did. What is `None` is not kept."""

    metrics: Metrics = field(default_factory=Metrics)
    usage: Usage | None = None
    limiter: Limiter | None = None
    audit: Audit | None = None

    @property
    def observers(self) -> list[Observer]:
        """Who wants to be told what becomes of jobs."""
        return [self.metrics, *filter(None, (self.usage,))]

    def note(self, request: web.Request, action: str, **about: Value) -> None:
        """Record an action of the request's member."""
        if self.audit is not None:
            admission, address = connection_of(request).admission, caller_of(request).address
            member = admission.member if admission is not None else ""
            self.audit.note(action, member=member, address=address, **about)

    def wrong_token(self, address: str, shown: str) -> None:
        """Record that somebody came with a token that is not valid; `shown` is what may be told."""
        if self.audit is not None:
            self.audit.note("sign_in_refused", address=address, token=shown)

    def served(self, member: str, count: int) -> None:
        """Count bytes of files that went to a client."""
        if count > 0:
            self.metrics.served.labels(member).inc(count)
            if self.usage is not None:
                self.usage.served(member, count)

    @contextmanager
    def submission(self, member: str) -> Iterator[None]:
        """The block submits a job."""
        if self.limiter is None:
            yield
            return
        with self.limiter.submission(member):
            yield

    @contextmanager
    def uploading(self, member: str, count: int) -> Iterator[None]:
        """Count an upload of `count` bytes, unless the block raises. Raises `LocalError` (429)."""
        if self.limiter is None:
            yield
        else:
            with self.limiter.uploading(member, count):
                yield
        self.metrics.uploaded.labels(member).inc(count)

    @contextmanager
    def storing(self, member: str, count: int, *, stored: int, replaced: int = 0) -> Iterator[None]:
        """The block writes `count` bytes that stay, beside `stored` and in place of `replaced`.

        They count as an upload unless the block raises. Raises `LocalError` (413, 429).
        """
        if self.limiter is None:
            yield
        else:
            with self.limiter.storing(member, count, stored=stored, replaced=replaced):
                yield
        self.metrics.uploaded.labels(member).inc(count)

    def upload_refusal(self, member: str) -> LocalError:
        """The answer to an upload for which there is no room."""
        if self.limiter is None:
            raise RuntimeError("nothing is limited")
        return self.limiter.upload_refusal(member)

    def upload_room(self, member: str) -> int | None:
        """How many bytes the member may still upload today; `None` is no limit."""
        return None if self.limiter is None else self.limiter.upload_room(member)
