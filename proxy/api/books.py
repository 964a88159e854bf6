"""What is written down of requests: counts, usage, limits and the audit record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Middleware

from proxy.api.forwarded import caller_of
from proxy.api.middleware import MEMBER
from proxy.members.audit import Audit, Value
from proxy.members.limiter import LIMIT_REACHED, Limiter
from proxy.members.usage import Usage
from proxy.metrics.collector import Cache, Metrics, Sources
from proxy.metrics.tally import Tally
from proxy.translate.errors import LocalError

if TYPE_CHECKING:
    from proxy.accounts.account import Account
    from proxy.jobs.observer import Observer
    from proxy.jobs.service import Jobs

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What is asked by machines that look whether the server is well does not count as a request.
_FREE = frozenset({"/healthz", "/readyz"})


@dataclass(frozen=True, slots=True)
class Books:
    """Where the handlers write down what they did. What is `None` is not kept."""

    tally: Tally = field(default_factory=Tally)
    usage: Usage | None = None
    limiter: Limiter | None = None
    audit: Audit | None = None
    metrics: Metrics | None = None

    @property
    def observers(self) -> list[Observer]:
        """Who wants to be told what becomes of jobs."""
        return [self.tally, *filter(None, (self.usage,))]

    def with_metrics(self, jobs: Jobs, accounts: Sequence[Account], cache: Cache) -> Books:
        """The same books with metrics, which are read from the rooms."""
        sources = Sources(self.tally, jobs.overview, jobs.queue_remaining, accounts, cache)
        return replace(self, metrics=Metrics(sources))

    def note(self, request: web.Request, action: str, **about: Value) -> None:
        """Record an action of the request's member."""
        if self.audit is not None:
            member, address = request.get(MEMBER, ""), caller_of(request).address
            self.audit.note(action, member=member, address=address, **about)

    def wrong_token(self, address: str, shown: str) -> None:
        """Record that somebody came with a token that is not valid; `shown` is what may be told."""
        if self.audit is not None:
            self.audit.note("sign_in_refused", address=address, token=shown)

    def served(self, member: str, count: int) -> None:
        """Count bytes of files that went to a client."""
        if count > 0:
            self.tally.served[member] += count
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
        self.tally.uploaded[member] += count

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
        self.tally.uploaded[member] += count

    def upload_refusal(self, member: str) -> LocalError:
        """The answer to an upload for which there is no room."""
        if self.limiter is None:
            raise RuntimeError("nothing is limited")
        return self.limiter.upload_refusal(member)

    def upload_room(self, member: str) -> int | None:
        """How many bytes the member may still upload today; `None` is no limit."""
        return None if self.limiter is None else self.limiter.upload_room(member)


def limited(books: Books) -> Middleware:
    """The middleware that holds members to their requests a second and counts all refusals."""
    limiter, refusals = books.limiter, books.tally.limit_refusals

    @web.middleware
    async def pass_within_limits(request: web.Request, handler: Handler) -> web.StreamResponse:
        member = request.get(MEMBER)
        if member is None:
            return await handler(request)
        try:
            if limiter is not None and request.path not in _FREE:
                limiter.request(member)
            return await handler(request)
        except LocalError as error:
            if error.type == LIMIT_REACHED:
                refusals[member, error.details] += 1
            raise

    return pass_within_limits
