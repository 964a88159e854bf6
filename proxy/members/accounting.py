"""Usage of members by day (UTC), their limits, and the object that handlers use for both.

Jobs are counted in the transaction that stores them. Bytes are counted here, and written every few
seconds. Usage is read from storage. The error of a limit says when to try again.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.costs.budgets import NO_BUDGETS, BudgetAmounts, Budgets, Shortfall, budgets_of, renewal
from proxy.costs.credits import credits_text, to_credits
from proxy.members.audit import Audit
from proxy.members.member import Member
from proxy.members.rates import Bucket, Buckets
from proxy.metrics import Metrics
from proxy.runtime import clock
from proxy.runtime.supervisor import Supervisor
from proxy.sharing.owners import network_of
from proxy.storage.costs import CostRow
from proxy.storage.usage import UsageRepository, UsageRow, day_of
from proxy.storage.write_behind import WriteBehind
from proxy.translate.errors import LocalError

#: Seconds between two writes of the bytes counted here; a crash loses no more than that.
WRITE_INTERVAL = 5.0

#: The `type` of every error about a limit; its `details` name the limit.
LIMIT_REACHED = "limit_reached"
#: The size of a burst, in seconds at the permitted rate.
BURST_SECONDS = 10.0
#: Wrong tokens per minute and address, after which the address is refused.
MAX_FAILURES = 10
#: Steps of sign-ins at a provider per minute and address: an office that comes in the morning.
MAX_SIGN_IN_STEPS = 60
#: Maximum number of addresses that are counted; the least recently seen is forgotten first.
MAX_ADDRESSES = 10_000
#: `Retry-After` in seconds if a member's queue is full: nobody knows when there will be room.
QUEUE_RETRY_AFTER = 5.0


@dataclass(eq=False, repr=False)
class Usage:
    """Usage by day. `unwritten` is what was counted here."""

    _repository: UsageRepository

    def __post_init__(self) -> None:
        self.unwritten = WriteBehind[tuple[str, str, str], UsageRow](
            "usage",
            lambda rows, batch: self._repository.add(list(rows.values()), batch),
            gather=WRITE_INTERVAL,
            again=WRITE_INTERVAL,
            merge=UsageRow.plus,
        )

    async def upload(
        self, member: str, count: int, token: str = "", *, at: float, max_bytes: int | None
    ) -> bool:
        """Count uploaded bytes, unless the day's total would exceed `max_bytes`.

        Return whether they were counted. Raises `StorageError`.
        """
        if max_bytes is None:
            self.uploaded(member, count, token, at=at)
            return True
        await self.unwritten.flush()
        row = UsageRow(day_of(at), member, bytes_up=count, token=token)
        return await self._repository.upload(row, limit=max_bytes)

    def uploaded(
        self, member: str, count: int, token: str = "", *, at: float | None = None
    ) -> None:
        """Count uploaded bytes; a negative `count` takes some back."""
        self._count(member, token, at, bytes_up=count)

    def served(self, member: str, count: int, token: str = "") -> None:
        """Count bytes of files sent to the member's clients."""
        self._count(member, token, None, bytes_down=count)

    def _count(self, member: str, token: str, at: float | None, **counts: int) -> None:
        day = day_of(clock.time() if at is None else at)
        row = UsageRow(day, member, **counts, token=token)
        self.unwritten.add(row.key, row)

    async def today(self, member: str) -> UsageRow:
        """Return the member's usage of today, with whatever token. Raises `StorageError`."""
        rows = await self.today_by_member(member)
        return next(iter(rows), UsageRow(day_of(clock.time()), member))

    async def today_by_member(self, member: str | None = None) -> list[UsageRow]:
        """Return the usage of today of all members, or one, with whatever token. Raises
        `StorageError`."""
        day, sums = day_of(clock.time()), dict[str, UsageRow]()
        for row in await self.days(day, day, member):
            sums[row.member] = sums.get(row.member, UsageRow(day, row.member)).plus(row)
        return list(sums.values())

    async def days(self, first: str, last: str, member: str | None = None) -> list[UsageRow]:
        """Return the usage from day to day, both included, of everybody or one member, ordered by
        day, name and token. Raises `StorageError`."""
        await self.unwritten.flush()
        return await self._repository.days(first, last, member)

    async def costs(self, first: str, last: str, member: str | None = None) -> list[CostRow]:
        """Return what jobs have cost from day to day, both included, of everybody or one member.
        Raises `StorageError`."""
        return await self._repository.costs(first, last, member)


@dataclass(eq=False, repr=False)
class Limiter:
    """Checks the limits of all members.

    `_member` returns a member by name, `default_budgets` has those of members without their own.
    Days end at midnight UTC.
    """

    _member: Callable[[str], Member]
    _usage: Usage
    default_budgets: BudgetAmounts = NO_BUDGETS
    _buckets: dict[str, Bucket] = field(init=False, default_factory=dict)

    def request(self, member: str) -> None:
        """Count a request. Raises `LocalError` (429)."""
        rate = self._member(member).limits.requests_per_second
        if rate is None:
            return
        bucket = self._buckets.get(member)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[member] = Bucket(rate, max(1.0, rate * BURST_SECONDS))
        wait = bucket.spend(clock.monotonic())
        if wait > 0:
            raise _refusal(
                "requests_per_second",
                rate,
                f"You send more than {rate:g} requests a second, which is your limit; "
                f"wait {max(1, math.ceil(wait))} s, then send fewer requests.",
                wait,
            )

    def admit(self, member: str, *, waiting: int, submitted: int) -> None:
        """Check a submission by the member's numbers of waiting jobs and of today's submissions.

        These may be out of date: the check when the job is stored decides. Raises `LocalError`
        (429).
        """
        limits = self._member(member).limits
        if limits.max_queued is not None and waiting >= limits.max_queued:
            raise self.queue_is_full(member, waiting)
        if limits.jobs_per_day is not None and submitted >= limits.jobs_per_day:
            raise self.day_is_full(member)

    def queue_is_full(self, member: str, waiting: int) -> LocalError:
        """Return the error of a submission while `waiting` jobs wait."""
        limit = self._member(member).limits.max_queued or 0
        return _refusal(
            "max_queued",
            limit,
            f"{waiting} of your jobs are waiting, and your limit is {limit}; submit again after "
            "one has started or was deleted.",
            QUEUE_RETRY_AFTER,
        )

    def day_is_full(self, member: str) -> LocalError:
        """Return the error of a submission after the last of the day."""
        limit = self._member(member).limits.jobs_per_day or 0
        return self._until_midnight(
            "jobs_per_day", limit, f"You have submitted your {limit} jobs of today"
        )

    def budgets(self, member: str) -> Budgets:
        """Return the budgets of a member."""
        return budgets_of(self._member(member).limits, self.default_budgets)

    def over_budget(self, shortfall: Shortfall, *, is_guess: bool = False) -> LocalError:
        """Return the error of a job that would exceed a budget.

        With `is_guess` it is not known how long such a job runs.
        """
        budget, left, estimate = shortfall.budget, max(0, shortfall.left), shortfall.estimate
        now = clock.time()
        end = renewal(budget.period, now)
        guess = " (nobody has run this workflow here, so 10 s are assumed)" if is_guess else ""
        return _refusal(
            budget.name,
            to_credits(budget.limit),
            f"This job is expected to cost about {credits_text(estimate, digits=2)}{guess}, but "
            f"{credits_text(left)} are left of your {credits_text(budget.limit)} a "
            f"{budget.period}, besides what your unfinished jobs are expected to cost. The budget "
            f"renews at {end:%Y-%m-%d %H:%M} UTC.",
            end.timestamp() - now,
            ends_at=end.isoformat(),
            left=to_credits(left),
            estimate=to_credits(estimate),
        )

    async def upload_room(self, member: str) -> int | None:
        """Return how many bytes the member may still upload today, `None` without a limit. Raises
        `StorageError`."""
        limit = self._member(member).limits.upload_bytes_per_day
        if limit is None:
            return None
        return max(0, limit - (await self._usage.today(member)).bytes_up)

    def upload_refusal(self, member: str) -> LocalError:
        """Return the error of an upload beyond the limit of the day."""
        limit = self._member(member).limits.upload_bytes_per_day or 0
        return self._until_midnight(
            "upload_bytes_per_day",
            limit,
            f"This upload would exceed your limit of {limit:,} bytes a day",
        )

    @asynccontextmanager
    async def uploading(self, member: str, count: int, token: str = "") -> AsyncIterator[None]:
        """Count an upload of `count` bytes, unless the block raises. Raises `LocalError` (429),
        `StorageError`."""
        limit, began = self._member(member).limits.upload_bytes_per_day, clock.time()
        if not await self._usage.upload(member, count, token, at=began, max_bytes=limit):
            raise self.upload_refusal(member)
        try:
            yield
        except BaseException:
            self._usage.uploaded(member, -count, token, at=began)
            raise

    def stored_bytes(self, member: str) -> int | None:
        """Return how many bytes of user data the member may store, `None` without a limit."""
        return self._member(member).limits.stored_bytes

    def storage_is_full(self, member: str, stored: int) -> LocalError:
        """Return the error of a write beyond the limit, while `stored` bytes are stored."""
        limit = self._member(member).limits.stored_bytes or 0
        return LocalError(
            LIMIT_REACHED,
            f"You have stored {stored:,} bytes, and this would exceed your limit of {limit:,} "
            "bytes; delete saved files, or ask an admin of this server for more.",
            kind="too_large",
            details="stored_bytes",
            extra_info={"limit": "stored_bytes", "value": limit},
        )

    def _until_midnight(self, limit: str, value: int, problem: str) -> LocalError:
        now = clock.time()
        end = renewal("day", now)
        sentence = f"{problem}; the limit renews at {end:%Y-%m-%d %H:%M} UTC."
        return _refusal(limit, value, sentence, end.timestamp() - now, ends_at=end.isoformat())


def _refusal(
    limit: str, value: float, sentence: str, wait: float, **more: str | float
) -> LocalError:
    retry_after = math.ceil(wait)
    return LocalError(
        LIMIT_REACHED,
        sentence,
        kind="rate_limited",
        details=limit,
        extra_info={"limit": limit, "value": value, "retry_after": retry_after, **more},
        retry_after=retry_after,
    )


class Throttle:
    """Limits by address what may happen a minute; a /64 of IPv6 counts as one address."""

    def __init__(self, per_minute: int) -> None:
        self._buckets = Buckets(per_minute / 60, per_minute, MAX_ADDRESSES)

    def count(self, address: str) -> int:
        """Count one. Return 0, or the seconds until the next one may happen."""
        return math.ceil(self._buckets.spend(network_of(address), clock.monotonic()))


class Accounting:
    """Counts usage and records actions for the handlers. `member` returns a member by name."""

    def __init__(
        self,
        metrics: Metrics,
        repository: UsageRepository,
        member: Callable[[str], Member],
        *,
        audit_days: int = 90,
        default_budgets: BudgetAmounts = NO_BUDGETS,
    ) -> None:
        self.metrics = metrics
        self.usage = Usage(repository)
        self.limiter = Limiter(member, self.usage, default_budgets)
        self.audit = Audit(repository, days=audit_days)

    @asynccontextmanager
    async def running(self, supervisor: Supervisor) -> AsyncIterator[None]:
        """Run the tasks that write counts and records; enter it before jobs start."""
        supervisor.keep(self.usage.unwritten.run, "write usage")
        await self.audit.start(supervisor)
        try:
            yield
        finally:
            await self.audit.close()
            await self.usage.unwritten.close()

    def served(self, member: str, count: int, token: str = "") -> None:
        """Count bytes of files sent to a client, which has the token of this id, or none."""
        if count > 0:
            self.metrics.served.labels(member).inc(count)
            self.usage.served(member, count, token)

    @asynccontextmanager
    async def uploading(self, member: str, count: int, token: str = "") -> AsyncIterator[None]:
        """Count an upload of `count` bytes, unless the block raises. Raises `LocalError` (429),
        `StorageError`."""
        async with self.limiter.uploading(member, count, token):
            yield
        self.metrics.uploaded.labels(member).inc(count)
