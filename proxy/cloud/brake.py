"""How long to keep still after the cloud has said that there are too many requests."""

from __future__ import annotations


class Brake:
    """Holds all calls of an account back for a while after a 429.

    Pure: `now` is any clock in seconds that does not run backwards. A 429 that says nothing means
    `first_wait` seconds, twice as long each time until an answer comes, at most `longest_wait`;
    one with `Retry-After` means what it says.
    """

    def __init__(self, *, first_wait: float = 1.0, longest_wait: float = 30.0) -> None:
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._pause = first_wait
        self._on_until = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the next call may be made."""
        return max(0.0, self._on_until - now)

    def slowed(self, now: float, asked: float | None) -> None:
        """The cloud said 429; `asked` is its `Retry-After` in seconds.

        Answers to calls that were under way when the first came do not make the pause longer.
        """
        if asked is not None:
            self._on_until = max(self._on_until, now + asked)
        elif now >= self._on_until:
            self._on_until = now + self._pause
            self._pause = min(self._pause * 2, self._longest_wait)

    def succeeded(self) -> None:
        """The cloud answered a call: the next pause is a short one again."""
        self._pause = self._first_wait
