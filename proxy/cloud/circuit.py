"""When to stop asking a cloud that does not answer."""

from __future__ import annotations


class Circuit:
    """Opens when the cloud has been silent for a while; lets one call try now and then.

    Pure: `now` is any clock in seconds that does not run backwards. `failures` calls in a row
    must fail, over at least `silence` seconds, before it opens; it then stays open for
    `first_wait` seconds, twice as long after each try that fails, at most `longest_wait`.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        silence: float = 5.0,
        first_wait: float = 2.0,
        longest_wait: float = 30.0,
    ) -> None:
        self._failures = failures
        self._silence = silence
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._count = 0
        self._first_failure = 0.0
        self._pause = first_wait
        self._open_until: float | None = None
        self._trying = False

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
        self._open_until = now + self._pause
        self._trying = True
        return 0.0

    def succeeded(self) -> None:
        """The cloud answered, whatever it said."""
        self._count = 0
        self._pause = self._first_wait
        self._open_until = None
        self._trying = False

    def failed(self, now: float) -> bool:
        """There was no answer, or only a gateway's. Says whether this opened the circuit."""
        if self._open_until is not None:
            if self._trying:
                self._trying = False
                self._pause = min(self._pause * 2, self._longest_wait)
                self._open_until = now + self._pause
            return False
        if self._count == 0:
            self._first_failure = now
        self._count += 1
        if self._count < self._failures or now - self._first_failure < self._silence:
            return False
        self._open_until = now + self._pause
        return True
