"""What one connection holds in memory: input that nothing has taken yet, output not taken yet.

The input is what has come of a request's headers or trailers, of requests that wait for the answer
to another, or of an unfinished websocket message. Few bytes are free: the number of connections
bounds them.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.budget import Allocation, MemoryLimitError

#: Bytes that are not counted.
FREE = 16 * 1024
#: A byte of input is held about this many times: as it came and as it was parsed.
INPUT_WEIGHT = 2


class Held:
    """Counts the bytes of a connection in the budget of its owner."""

    __slots__ = ("allocation", "input", "output")

    def __init__(self) -> None:
        self.input = 0
        self.output = 0
        #: What is taken from the budget, if anything is.
        self.allocation: Allocation | None = None

    def fits(self, allocate: Callable[[], Allocation]) -> bool:
        """Take what is held from the budget; `allocate` returns an allocation of the owner."""
        size = INPUT_WEIGHT * self.input + self.output
        if size <= FREE:
            self.release()
            return True
        if self.allocation is None:
            self.allocation = allocate()
        try:
            self.allocation.resize(size)
        except MemoryLimitError:
            return False
        return True

    def release(self) -> None:
        """Give all bytes back; harmless when repeated."""
        if self.allocation is not None:
            self.allocation.release()
            self.allocation = None
