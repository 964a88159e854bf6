"""When an open socket that says nothing is no use any more."""

from __future__ import annotations

#: What the cloud sends to every new connection, stalled later or not.
_GREETINGS = frozenset({"status", "feature_flags"})


class Silence:
    """How long a socket may be silent while messages are due.

    Pure: `now` is any clock in seconds that does not run backwards. The first time it is `first`
    seconds, then twice as long each time, at most `longest`, until a message has come that is
    more than a greeting: a node may take long to say something, and each new connection may miss
    an event.
    """

    def __init__(self, *, first: float = 15.0, longest: float = 120.0) -> None:
        self.first = first
        self._longest = longest
        self._bound = first
        self._since = 0.0

    def begin(self, now: float) -> None:
        """A connection has been opened, or nothing is due on it: count from now on."""
        self._since = now

    def heard(self, now: float, type_: str) -> None:
        """A message came; `type_` is that of a text, anything for others."""
        self._since = now
        if type_ not in _GREETINGS:
            self._bound = self.first

    def is_over(self, now: float) -> bool:
        """Whether to give the connection up; the next may be silent for longer."""
        if now - self._since < self._bound:
            return False
        self._bound = min(self._bound * 2, self._longest)
        return True
