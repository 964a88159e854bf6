"""The memory of one connection: input that was not handled yet, and output that was not sent yet.

Input is unfinished headers and trailers, requests that wait for the answer to another one,
unfinished websocket messages, and what waits to be parsed. A few bytes are not counted: the number
of connections limits them.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.budget import Allocation, MemoryLimitError

#: Bytes of a connection that are not counted.
FREE = 16 * 1024
#: Copies of each byte of input, about: as received and as parsed.
INPUT_WEIGHT = 2


class Held:
    """Counts the bytes of a connection in the budget of its owner."""

    __slots__ = ("allocation", "input", "output", "unparsed")

    def __init__(self) -> None:
        self.input = 0
        self.output = 0
        self.unparsed = 0
        #: The allocation of the budget, `None` for few bytes.
        self.allocation: Allocation | None = None

    def fits(self, allocate: Callable[[], Allocation]) -> bool:
        """Update the allocation, which `allocate` creates for the owner. Return whether it fits."""
        size = INPUT_WEIGHT * self.input + self.unparsed + self.output
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
        """Release all bytes; does nothing if repeated."""
        if self.allocation is not None:
            self.allocation.release()
            self.allocation = None
