"""What can go wrong between here and Comfy Cloud, and what keeps calls from making trouble worse:
waits, repetitions, a breaker, a rate limiter.

* `CloudError`

  * `CloudUnreachable`: no answer, and nothing is lost by asking again

    * `CloudDown`: not even tried, since the cloud has been silent or unavailable for a while

  * `CloudAmbiguous`: a submission without a clear answer; the job may exist
  * `CloudRefused`: an answer with an HTTP status of 400 or more

    * `CloudUnauthorized`: 401, the key does not work

  * `CloudGarbage`: an answer that the cloud's API does not have

    * `CloudOversized`: an answer with too many bytes or values

No message, body or cause of these holds a key, a token or a signed URL.

All but `RetryPolicy` and `CallGate` are pure: `now` is any clock in seconds that does not run
backwards.
"""

# ruff: noqa: N818 (they are read as what happened: "except CloudRefused")

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

import structlog
from msgspec import Struct

from proxy.translate.errors import LocalError, is_throttling

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Seconds after which a client may ask again, where nobody knows better.
_WAIT = 10.0

#: Answers of a gateway that could not get one from the service behind it (502, 504 in RFC 9110;
#: the others are those of Cloudflare).
GATEWAY_STATUSES = frozenset({502, 504, 520, 521, 522, 523, 524})

#: Refusals of a read that may pass by themselves.
PASSING_STATUSES = GATEWAY_STATUSES | {408, 425, 429, 500, 503}

#: The longest wait in seconds that the cloud may dictate: what waits must notice within a minute
#: or two that the cloud works again, and asking once a minute burdens nobody.
LONGEST_RETRY_AFTER = 60.0

#: The longest wait in seconds for the turn of a call that may be made.
_LONGEST_TURN = 10.0


class CloudError(Exception):
    """Any failure of a call to Comfy Cloud.

    `retry_after` is in how many seconds it is worth asking again, `None` if nobody knows.
    """

    retry_after: float | None = None


class CloudUnreachable(CloudError):
    """There was no whole answer: refused, no such host, reset, timed out, cut off.

    `sent` says whether the request may have reached the cloud; a submission raises this only if
    it has not.
    """

    def __init__(
        self, message: str, *, sent: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.sent = sent
        self.retry_after = retry_after


class CloudDown(CloudUnreachable):
    """The circuit is open: nothing was sent, nothing will be for `retry_after` seconds.

    `status` is what the cloud answered last (503, or a gateway's), `None` if it did not answer.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status


class CloudAmbiguous(CloudError):
    """`POST /api/prompt` went out and no clear answer came back: the job may exist.

    `taken` says that the cloud answered as if it had taken the job, without naming it. `refused`
    is what the answer means if the job turns out not to exist.
    """

    def __init__(
        self, message: str, *, taken: bool = False, refused: CloudRefused | None = None
    ) -> None:
        super().__init__(message)
        self.taken = taken
        self.refused = refused


class CloudRefused(CloudError):
    """The cloud answered with a status of 400 or more, or would do so again.

    `body` is the parsed JSON, or the text if it is none. A 401 and a 429 are also raised for calls
    that follow such an answer too soon to be made.
    """

    def __init__(
        self, message: str, status: int, body: object = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class CloudUnauthorized(CloudRefused):
    """The cloud answered 401: no key, or one that it does not take."""


class CloudGarbage(CloudError):
    """The answer is not what the cloud's OpenAPI says: not JSON, a field missing, a redirect."""


class CloudOversized(CloudGarbage):
    """The answer has more bytes or values than any that the cloud's API describes."""


def refusal(call: str, status: int, body: object, retry_after: float | None) -> CloudRefused:
    """The error of an answer; `call` names the method and the route."""
    kind = CloudUnauthorized if status == 401 else CloudRefused
    said = _said(body)
    return kind(f"{call}: {status}{': ' if said else ''}{said}", status, body, retry_after)


def unanswered(error: CloudError, lead: str, then: str) -> LocalError:
    """The messages to a client about a call that got no answer.

    `lead` begins the sentence, `then` ends it with what to do once the cloud answers again.
    """
    type_ = "cloud_unreachable"
    why = "Comfy Cloud cannot be reached; check the network of the proxy"
    if isinstance(error, CloudDown) and error.status is not None:
        type_ = "cloud_unavailable"
        why = f"Comfy Cloud is unavailable ({error.status}); try again later"
    return LocalError(
        type_,
        f"{lead}: {why}, then {then}.",
        kind="unavailable",
        retry_after=error.retry_after or _WAIT,
    )


def _said(body: object) -> str:
    """The cloud's own words in one short line: `{"error": {…}}`, `{"code", "message"}` or text."""
    if isinstance(body, dict):
        error = body.get("error")
        about = error if isinstance(error, dict) else body
        words = [about.get("type") or about.get("code"), about.get("message") or error]
        body = " ".join(word for word in words if isinstance(word, str))
    text = body if isinstance(body, str) and not body.lstrip().startswith("<") else ""
    return " ".join(text.split())[:200]


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds from `now` (seconds since 1970) by a `Retry-After` header, `None` if unreadable.

    At most `LONGEST_RETRY_AFTER`, whatever it says.
    """
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        return float(min(int(value.strip()[:10]), LONGEST_RETRY_AFTER))
    try:
        wait = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, wait), LONGEST_RETRY_AFTER)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits in seconds: the first, `factor` times as long after each failure, up to the longest."""

    first: float
    longest: float
    factor: float = 2.0

    def whole(self, failures: int) -> float:
        """The wait after this many failures in a row, from 1."""
        return min(self.longest, self.first * self.factor ** min(max(failures, 1) - 1, 30))

    def after(self, failures: int) -> float:
        """The same, drawn from its upper half, so that those who fail together do not return so."""
        return jittered(self.whole(failures))


def jittered(wait: float) -> float:
    """Between half of `wait` and all of it."""
    return wait * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, hides nothing)


class RetryPolicy(Struct, frozen=True):
    """How reads are repeated: no wait ends later than `budget` seconds after the first attempt."""

    budget: float = 30.0
    backoff: Backoff = Backoff(first=0.25, longest=8.0)

    async def repeat(self, read: Callable[[int], Awaitable[T]]) -> T:
        """What `read` returns, given the number of the attempt, from 1.

        Raises what the last attempt raised.
        """
        deadline = time.monotonic() + self.budget
        number = 0
        while True:
            number += 1
            try:
                return await read(number)
            except CloudError as error:
                wait = self.backoff.after(number)
                if error.retry_after is not None:
                    wait = max(wait, error.retry_after + jittered(self.backoff.first))
                if not may_pass(error) or time.monotonic() + wait > deadline:
                    raise
                log.info(
                    "call_repeated", error=str(error), attempt=number + 1, seconds=round(wait, 2)
                )
            await asyncio.sleep(wait)


def may_pass(error: Exception) -> bool:
    """Whether the same read may succeed a moment later."""
    if isinstance(error, CloudRefused):
        return error.status in PASSING_STATUSES
    if isinstance(error, CloudDown | CloudOversized):
        return False
    return isinstance(error, CloudUnreachable | CloudGarbage)


class CircuitBreaker:
    """Opens when the cloud has been silent for a while; lets one call try now and then.

    `failures` calls in a row must fail, over at least `silence` seconds, before it opens; each try
    that fails makes the next wait of `backoff` longer.
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

    @property
    def open(self) -> bool:
        """Whether calls are held back."""
        return self._open_until is not None

    def wait(self, now: float) -> float:
        """Seconds until the next call may be made; 0 lets the caller make one.

        While it is open only one caller at a time gets the 0. One that never reports back blocks
        the others no longer than a failure would have.
        """
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        self._open_until = now + self._backoff.whole(self._tries)
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        """The cloud answered, whatever it said."""
        self._count = self._tries = 0
        self._open_until = None
        self._trying = False

    def failed(self, now: float) -> bool:
        """There was no answer, or only a gateway's. Says whether this opened the circuit."""
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
        return True


class RateLimiter:
    """Holds all calls of an account back for a while after a 429, and spaces them afterwards.

    A 429 that says nothing means the next wait of `backoff`, until a call is answered; one with
    `Retry-After` means what it says. The calls behind it come one after the other, at half the
    pace after each further 429, and ever more quickly as they are answered: so those that have
    waited together do not meet the limit together. The pace cannot be known beforehand, since no
    answer of the cloud tells its limit.
    """

    def __init__(self, backoff: Backoff = Backoff(1.0, 30.0)) -> None:
        self._backoff = backoff
        self._pauses = 0
        self._paused_until = 0.0
        self._gap = 0.0
        self._next = 0.0

    def pause(self, now: float) -> float:
        """Seconds for which no call may be made."""
        return max(0.0, self._paused_until - now)

    def turn(self, now: float, longest: float) -> float:
        """Seconds to wait before a call, which takes its turn by this if it is not too far off."""
        at = max(now, self._next)
        if at - now <= longest:
            self._next = at + self._gap
        return at - now

    def slowed(self, now: float, asked: float | None) -> None:
        """The cloud said 429; `asked` is its `Retry-After` in seconds.

        Answers to calls that were under way when the first came make the pause no longer.
        """
        if now >= self._paused_until:
            self._pauses += 1
            self._gap = min(max(self._gap * 2, self._backoff.first / 8), self._backoff.first)
            if asked is None:
                asked = self._backoff.whole(self._pauses)
        if asked is not None:
            self._paused_until = self._next = max(self._paused_until, now + asked)

    def succeeded(self) -> None:
        """The cloud answered a call: the next pause is a short one again."""
        self._pauses = 0
        self._gap = self._gap * 0.8 if self._gap > self._backoff.first / 100 else 0.0


class CallGate:
    """Refuses calls by what the calls before them met.

    While the cloud is silent or unavailable (`breaker`) they fail with `CloudDown`; after a 429
    (`limiter`) with that 429; after two 401 in a row with the last one, but for a try now and then,
    until the key is another one.
    """

    def __init__(self, breaker: CircuitBreaker, limiter: RateLimiter) -> None:
        self._breaker = breaker
        self._limiter = limiter
        self._throttled: object = ""
        self._unavailable: int | None = None
        self._key = ""
        self._refused: object = ""
        self._lock = _key_lock()

    async def enter(self, call: str, key: str) -> None:
        """Wait for the turn of a call, if calls have turns.

        Raises an error instead of a call that is not to be made now; it says when it may be.
        """
        self._check_pause(call)
        wait = self._limiter.turn(time.monotonic(), _LONGEST_TURN)
        if wait > _LONGEST_TURN:
            raise refusal(call, 429, self._throttled, wait)
        if wait > 0:
            await asyncio.sleep(wait)
            self._check_pause(call)
        now = time.monotonic()
        if key != self._key:
            self._key = key
            self._lock = _key_lock()
        if self._lock.wait(now) > 0:
            raise refusal(call, 401, self._refused, None)
        wait = self._breaker.wait(now)
        if wait > 0:
            status = self._unavailable
            said = "does not answer" if status is None else f"answers {status}"
            raise CloudDown(f"{call}: the cloud {said}", status=status, retry_after=wait)

    def _check_pause(self, call: str) -> None:
        wait = self._limiter.pause(time.monotonic())
        if wait > 0:
            raise refusal(call, 429, self._throttled, wait)

    def answered(self, key: str) -> None:
        """A call was answered as it should be."""
        self._breaker.succeeded()
        self._limiter.succeeded()
        self._key_taken(key)

    def failed(self, error: CloudRefused | CloudUnreachable, key: str) -> None:
        """A call was refused or not answered."""
        now = time.monotonic()
        if isinstance(error, CloudUnreachable) or error.status in GATEWAY_STATUSES | {503}:
            self._unavailable = error.status if isinstance(error, CloudRefused) else None
            if self._breaker.failed(now):
                log.warning("circuit_opened")
            return
        self._breaker.succeeded()
        if error.status == 429 and is_throttling(error.body):
            self._throttled = error.body
            self._limiter.slowed(now, error.retry_after)
            error.retry_after = self._limiter.pause(now)
            log.warning("account_throttled", seconds=round(error.retry_after, 1))
        elif not isinstance(error, CloudUnauthorized):
            self._key_taken(key)
        elif key == self._key:
            self._refused = error.body
            if self._lock.failed(now):
                log.error("key_refused")

    def _key_taken(self, key: str) -> None:
        if key == self._key:
            self._lock.succeeded()


class OpenGate(CallGate):
    """Lets every call through and learns from none: for answers that say nothing about others."""

    def __init__(self) -> None:
        super().__init__(CircuitBreaker(), RateLimiter())

    async def enter(self, call: str, key: str) -> None:
        """Nothing holds the call back."""

    def answered(self, key: str) -> None:
        """An answer changes nothing."""

    def failed(self, error: CloudRefused | CloudUnreachable, key: str) -> None:
        """Neither does a failure."""


def _key_lock() -> CircuitBreaker:
    return CircuitBreaker(failures=2, silence=0.0, backoff=Backoff(5.0, 60.0))
