"""Whether an account takes jobs now: a state machine without I/O and without a clock."""

from __future__ import annotations

from typing import Literal

from proxy.translate.errors import LocalError

Reason = Literal["no_credits", "dead_key", "queue_limit", "rate_limited", "unreachable"]

#: The first and the longest rest in seconds. What a person must repair is tried less often.
RESTS: dict[Reason, tuple[float, float]] = {
    "no_credits": (5.0, 300.0),
    "dead_key": (5.0, 300.0),
    "queue_limit": (1.0, 60.0),
    "rate_limited": (1.0, 60.0),
    "unreachable": (1.0, 30.0),
}

#: What does not pass by itself within any time that a client may be left to wait.
UNABLE = frozenset({"no_credits", "dead_key", "queue_limit"})


class Health:
    """An account that is well, or rests for a reason until some time.

    `now` is any clock in seconds that does not run backwards. After a rest one job is let through
    to try; if that fails for the same reason, the next rest is twice as long. `refusal` is what the
    last failure tells a client, `unable_since` when the account began to be `UNABLE` to take jobs.
    """

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self.until = 0.0
        self.refusal: LocalError | None = None
        self.unable_since: float | None = None
        self._rest = 0.0
        self._trying = False

    @property
    def well(self) -> bool:
        """Whether nothing is known against the account."""
        return self.reason is None

    def ready(self, now: float) -> bool:
        """Whether a waiting job may go there: well, or rested and nobody tries just now."""
        return self.well or (now >= self.until and not self._trying)

    def sent(self) -> None:
        """A job goes there; of an account that rested it is the one that tries."""
        self._trying = not self.well

    def worked(self) -> None:
        """The account took a job, or refused it for a reason of the job's own."""
        self.renewed()

    def failed(
        self,
        reason: Reason,
        now: float,
        asked: float | None = None,
        refusal: LocalError | None = None,
    ) -> None:
        """The account refused a job for a reason of its own; `asked` is its `Retry-After`."""
        first, longest = RESTS[reason]
        self.refusal = refusal
        if reason not in UNABLE:
            self.unable_since = None
        elif self.unable_since is None:
            self.unable_since = now
        again = reason == self.reason
        if again and not self._trying and now < self.until:
            return  # jobs that were sent together fail together: that is one failure
        self._rest = min(self._rest * 2, longest) if again else first
        self.reason = reason
        self.until = now + max(self._rest, asked or 0.0)
        self._trying = False

    def unsettled(self) -> None:
        """The job that tried came back without a word on the account."""
        self._trying = False

    def eased(self, now: float) -> None:
        """A job has left the account: one that had too many may be tried at once."""
        if self.reason in ("queue_limit", "rate_limited"):
            self.until = min(self.until, now)

    def renewed(self) -> None:
        """Another key, or proof that it works: nothing is known against the account any more."""
        self.reason = self.refusal = self.unable_since = None
        self.until = self._rest = 0.0
        self._trying = False
