"""Bytes that are held for clients: allocations by owner, and the budget of memory.

Code that keeps something in memory whose size a client or the cloud has chosen takes its bytes from
the budget *before* that, counted after decompression, and releases them afterwards. An owner is a
member, or an address while nobody is signed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Literal, Self, get_args

from proxy.translate.errors import LocalError

#: What memory is used for; the label `purpose` of the metric `memory_held_bytes`.
Purpose = Literal["answer", "body", "connection", "export", "job", "picture", "socket", "workflow"]

#: The maximum share of one member, and of one address without a member.
MEMBER_SHARE, ADDRESS_SHARE = 1 / 2, 1 / 8
#: `Retry-After` in seconds.
_RETRY_AFTER = 2.0


class MemoryLimitError(LocalError):
    """Raised for bytes that do not fit: 413 if they exceed the owner's share, else 429."""

    def __init__(self, size: int, share: int) -> None:
        if size > share:
            super().__init__(
                "memory_limit",
                f"This needs {size:,} bytes of memory and at most {share:,} are allowed; send or "
                "request less at once, or increase the setting `memory_mb`.",
                kind="too_large",
            )
        else:
            super().__init__(
                "memory_limit",
                "The proxy holds too much data for clients at the moment; read the answers of "
                "your other requests, and try again.",
                kind="rate_limited",
                retry_after=_RETRY_AFTER,
            )


class Allocation:
    """The bytes held for one thing. A context manager that releases them at its end.

    `charge` counts a growth (or a decrease, if negative) to a size; it raises `LocalError` if that
    does not fit.
    """

    def __init__(self, charge: Callable[[int, int], None]) -> None:
        self.size = 0
        self._charge = charge

    def resize(self, size: int) -> None:
        """Hold `size` bytes in all. Raises `LocalError` if the growth does not fit."""
        self._charge(size - self.size, size)
        self.size = size

    def grow(self, size: int) -> None:
        """Hold `size` more bytes. Raises `LocalError` if they do not fit."""
        self.resize(self.size + size)

    def release(self) -> None:
        """Release all bytes; does nothing if repeated."""
        self.resize(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class ThresholdAllocation:
    """The bytes held for one thing whose size changes, counted while there are at least `least`."""

    __slots__ = ("_least", "allocation")

    def __init__(self, least: int) -> None:
        self._least = least
        #: The allocation of the budget, `None` for few bytes.
        self.allocation: Allocation | None = None

    def fits(self, size: int, allocate: Callable[[], Allocation]) -> bool:
        """Hold `size` bytes in all. Return whether they fit; if not, what was held before stays.

        `allocate` returns an allocation of the owner, and is called when the bytes become many.
        """
        if size < self._least:
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


class OwnerTotals:
    """The bytes that each owner holds."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()

    def charge(self, owner: str, limit: int, growth: int) -> bool:
        """Count a growth, unless the owner would hold more than `limit`. Return whether it fits."""
        total = self._totals[owner] + growth
        if growth > 0 and total > limit:
            return False
        if total > 0:
            self._totals[owner] = total
        else:
            self._totals.pop(owner, None)
        return True


class MemoryBudget:
    """`limit` bytes for the whole process; an owner has a share of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._by_owner = OwnerTotals()
        self._by_purpose: Counter[Purpose] = Counter(dict.fromkeys(get_args(Purpose), 0))

    def member(self, name: str, purpose: Purpose) -> Allocation:
        """Return an allocation of a member, of 0 bytes."""
        share = int(self.limit * MEMBER_SHARE)
        return Allocation(partial(self._charge, f"member {name}", share, purpose))

    def address(self, address: str, purpose: Purpose) -> Allocation:
        """Return an allocation of an address without a member, of 0 bytes."""
        share = int(self.limit * ADDRESS_SHARE)
        return Allocation(partial(self._charge, f"address {address}", share, purpose))

    def held(self) -> Mapping[Purpose, int]:
        """Return the bytes that are held for each purpose."""
        return self._by_purpose

    def _charge(self, owner: str, share: int, purpose: Purpose, growth: int, size: int) -> None:
        full = growth > 0 and self._by_purpose.total() + growth > self.limit
        if full or not self._by_owner.charge(owner, share, growth):
            raise MemoryLimitError(size, share)
        self._by_purpose[purpose] += growth
