"""Retries, circuit breaker and rate limiter of calls to Comfy Cloud.

All classes but `Attempts` and `CallGate` are pure: `now` is a monotonic clock in seconds.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import structlog
from msgspec import Struct

from proxy.cloud.errors import (
    UNAVAILABLE_STATUSES,
    CloudDown,
    CloudError,
    CloudRefused,
    CloudUnauthorized,
    CloudUnreachable,
    may_pass,
    refusal,
)
from proxy.logging import FailureLines
from proxy.runtime import clock
from proxy.runtime.backoff import Backoff, jittered
from proxy.translate.errors import is_throttling

log = structlog.get_logger(__name__)

#: Maximum seconds of a `Retry-After` of the cloud: callers must notice soon that it works again.
MAX_RETRY_AFTER = 60.0

#: What the log calls the failure of all calls; that of some has the name of their route.
_UNANSWERED = "unanswered calls"

#: Maximum seconds that a call waits for its turn.
_MAX_TURN_WAIT = 10.0


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds from `now` (seconds since 1970) by a `Retry-After` header, at most
    `MAX_RETRY_AFTER`; `None` if it is invalid."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        return float(min(int(value.strip()[:10]), MAX_RETRY_AFTER))
    try:
        wait = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, wait), MAX_RETRY_AFTER)


class RetryPolicy(Struct, frozen=True):
    """How reads are repeated: no attempt begins later than `budget` seconds after the first, and
    each may take `attempt_timeout` seconds."""

    budget: float = 30.0
    backoff: Backoff = Backoff(first=0.25, longest=8.0)
    attempt_timeout: float = 30.0


#: For calls that are not repeated.
ONCE = RetryPolicy(budget=0.0)

#: Seconds between two trials of a cloud that does not answer, and how one is repeated: somebody
#: waits for it.
_TRIAL_INTERVAL = 1.0
TRIAL = RetryPolicy(budget=1.5)


class Attempts:
    """The attempts of one read, of which the first begins now; `number` is that of the current
    one. There are at most `max_attempts`, if that is set."""

    def __init__(self, policy: RetryPolicy, max_attempts: int | None = None) -> None:
        self.number = 1
        self._max_attempts = max_attempts
        self._backoff = policy.backoff
        self._deadline = clock.monotonic() + policy.budget

    def failed(self, error: Exception) -> float:
        """Return the seconds to wait before the next attempt. Raises the `error` of this one if it
        is the last, or not one of the cloud's that may pass."""
        wait = self._backoff.after(self.number)
        if isinstance(error, CloudError) and error.retry_after is not None:
            wait = max(wait, error.retry_after + jittered(self._backoff.first))
        if not may_pass(error) or clock.monotonic() + wait > self._deadline:
            raise error
        if self.number == self._max_attempts:
            raise error
        self.number += 1
        return wait


class CircuitBreaker:
    """Stops calls while the cloud does not answer, but for one attempt at a time.

    It opens after `failures` failed calls in a row over at least `silence` seconds. Each failed
    attempt makes the next delay of `backoff` longer.
    """

    def __init__(
        self, *, failures: int = 5, silence: float = 5.0, backoff: Backoff = Backoff(2.0, 30.0)
    ) -> None:
        self._failures = failures
        self._silence = silence
        self._backoff = backoff
        self._count = 0
        self._first_failure = 0.0
        self._tries = 0
        self._trying = False
        self._open_until: float | None = None
        self._next_trial = 0.0

    @property
    def failing(self) -> bool:
        """Whether the last call failed; it did if calls are stopped."""
        return self._count > 0

    def wait(self, now: float, *, trial: bool = False) -> float:
        """Return the seconds until the next call may be made; with 0 the caller makes one.

        While the circuit is open only one caller at a time gets 0, but once a second a `trial`
        does, which changes no delay if it fails. A caller that never reports back blocks the others
        no longer than a failure would.
        """
        if self._open_until is None:
            return 0.0
        if now < (next_call := min(self._open_until, self._next_trial if trial else math.inf)):
            return next_call - now
        self._next_trial = now + _TRIAL_INTERVAL
        if now < self._open_until:
            return 0.0
        self._open_until = now + self._backoff.whole(self._tries)
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        """Note that the cloud answered, and close the circuit."""
        self._count = self._tries = 0
        self._open_until = None
        self._trying = False

    def failed(self, now: float) -> bool:
        """Note that there was no answer, or only a gateway's. Return whether this opened the
        circuit."""
        if self._open_until is not None:
            if self._trying:
                self._trying = False
                self._tries += 1
                self._open_until = now + self._backoff.whole(self._tries)
            return False
        if self._count == 0:
            self._first_failure = now
        self._count += 1
        if self._count < self._failures or now - self._first_failure < self._silence:
            return False
        self._tries = 1
        self._open_until = now + self._backoff.whole(1)
        self._next_trial = now + _TRIAL_INTERVAL
        return True


class RateLimiter:
    """Pauses all calls of an account after a 429, and spaces them out afterwards.

    The pause is that of `Retry-After`, or else the next delay of `backoff`. After it calls follow
    each other with a gap, so that those that have waited together do not reach the limit together.
    The gap doubles with each further 429 and shrinks with each answer: the cloud does not report
    its limit.
    """

    def __init__(self, backoff: Backoff = Backoff(1.0, 30.0)) -> None:
        self._backoff = backoff
        self._pauses = 0
        self._paused_until = 0.0
        self._gap = 0.0
        self._next = 0.0

    def pause(self, now: float) -> float:
        """Return the remaining seconds of the pause."""
        return max(0.0, self._paused_until - now)

    def is_slow(self, now: float) -> bool:
        """Return whether calls are paused or spaced out, or some still wait for their turns."""
        return self._gap > 0.0 or max(self._paused_until, self._next) > now

    def turn(self, now: float, max_wait: float) -> float:
        """Return the seconds until the turn of a call, and take the turn unless they exceed
        `max_wait`."""
        at = max(now, self._next)
        if at - now <= max_wait:
            self._next = at + self._gap
        return at - now

    def slowed(self, now: float, asked: float | None) -> None:
        """Note a 429; `asked` is its `Retry-After` in seconds.

        Answers to calls that were under way at the first 429 do not make the pause longer.
        """
        if now >= self._paused_until:
            self._pauses += 1
            self._gap = min(max(self._gap * 2, self._backoff.first / 8), self._backoff.first)
            if asked is None:
                asked = self._backoff.whole(self._pauses)
        if asked is not None:
            self._paused_until = self._next = max(self._paused_until, now + asked)

    def succeeded(self) -> None:
        """Note an answer: the next pause is a short one again."""
        self._pauses = 0
        self._gap = self._gap * 0.8 if self._gap > self._backoff.first / 100 else 0.0


#: Seconds between two calls with a key that was refused.
REFUSED_KEY_RETRIES = Backoff(5.0, 60.0)


@dataclass(slots=True, eq=False)
class ApiKey:
    """The key of an account, the circuit that stops calls after two 401 in a row, and the body of
    the last one."""

    text: str = field(repr=False)
    circuit: CircuitBreaker = field(
        default_factory=lambda: CircuitBreaker(failures=2, silence=0.0, backoff=REFUSED_KEY_RETRIES)
    )
    refusal: object = ""


class CallGate:
    """Refuses calls depending on the results of previous ones.

    While the circuit of `breaker` is open calls fail with `CloudDown`, in a pause of `limiter` with
    the last 429. While the circuit of their key is open they fail with its last 401.
    """

    def __init__(self, breaker: CircuitBreaker, limiter: RateLimiter) -> None:
        self._breaker = breaker
        self._limiter = limiter
        self._throttled: object = ""
        self._unavailable: int | None = None
        self._holding_back = False  # a call has failed, and this may still hold back others
        self._lines = FailureLines()
        #: Set when the cloud answers after a call that it did not answer; the next is another one.
        self.recovery = asyncio.Event()

    @property
    def failing(self) -> bool:
        """Whether the cloud did not answer the last call."""
        return self._breaker.failing

    async def enter(self, call: object, key: ApiKey, *, trial: bool = False) -> None:
        """Wait for the turn of a call. A `trial` is sent once a second although others are not.

        Raises a `CloudError` for a call that must not be sent now; it says when to try again.
        """
        if self._holding_back or key.circuit.failing:
            await self._await_turn(call, key, trial)

    async def _await_turn(self, call: object, key: ApiKey, trial: bool) -> None:
        self._check_pause(call)
        wait = self._limiter.turn(clock.monotonic(), _MAX_TURN_WAIT)
        if wait > _MAX_TURN_WAIT:
            raise refusal(call, 429, self._throttled, wait)
        if wait > 0:
            await asyncio.sleep(wait)
            self._check_pause(call)
        now = clock.monotonic()
        if key.circuit.wait(now) > 0:
            raise refusal(call, 401, key.refusal, None)
        wait = self._breaker.wait(now, trial=trial)
        if wait > 0:
            status = self._unavailable
            problem = "does not answer" if status is None else f"answers {status}"
            raise CloudDown(f"{call}: the cloud {problem}", status=status, retry_after=wait)

    def _check_pause(self, call: object) -> None:
        wait = self._limiter.pause(clock.monotonic())
        if wait > 0:
            raise refusal(call, 429, self._throttled, wait)

    def repeats(self, route: str, error: Exception, attempts: Attempts, wait: float) -> None:
        """Log that a call is sent again: while the cloud does not answer, one line for all."""
        more = self._lines.due(_UNANSWERED if self.failing else route)
        if more is not None:
            about = {"error": str(error), "attempt": attempts.number, "seconds": round(wait, 2)}
            log.info("call_repeated", **about, **more)

    def answered(self, route: str, key: ApiKey) -> None:
        """Note an answer below 400."""
        if self._holding_back or key.circuit.failing:
            self._reached()
            self._lines.ended(route)
            self._limiter.succeeded()
            key.circuit.succeeded()
            self._holding_back = self._limiter.is_slow(clock.monotonic())

    def _reached(self) -> None:
        if self._breaker.failing:
            self.recovery.set()
            self.recovery = asyncio.Event()
            self._lines.ended(_UNANSWERED)
        self._breaker.succeeded()

    def failed(self, error: CloudRefused | CloudUnreachable, key: ApiKey) -> None:
        """Note a call that was refused or not answered."""
        now, self._holding_back = clock.monotonic(), True
        if isinstance(error, CloudUnreachable) or error.status in UNAVAILABLE_STATUSES:
            self._unavailable = error.status if isinstance(error, CloudRefused) else None
            if self._breaker.failed(now):
                log.warning("circuit_opened")
            return
        self._reached()
        if error.status == 429 and is_throttling(error.body):
            self._throttled = error.body
            self._limiter.slowed(now, error.retry_after)
            error.retry_after = self._limiter.pause(now)
            log.warning("account_throttled", seconds=round(error.retry_after, 1))
        elif not isinstance(error, CloudUnauthorized):
            key.circuit.succeeded()
        else:
            key.refusal = error.body
            if key.circuit.failed(now):
                log.error("key_refused")


class OpenGate(CallGate):
    """Never refuses a call: for optional calls whose results say nothing about others."""

    def __init__(self) -> None:
        super().__init__(CircuitBreaker(), RateLimiter())

    def failed(self, error: CloudRefused | CloudUnreachable, key: ApiKey) -> None:
        """Ignore a failure."""
