"""Bytes that are held for clients: allocations by owner, and the budget of memory.

Code that keeps something in memory whose size a client or the cloud has chosen takes its bytes from
the budget *before* that, counted after decompression, and releases them afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Literal, Self, get_args

from proxy.sharing.owners import Owner
from proxy.sharing.pool import Pool
from proxy.translate.errors import LocalError

#: What memory is used for; the label `purpose` of the metric `memory_held_bytes`.
Purpose = Literal["answer", "body", "connection", "export", "job", "picture", "socket", "workflow"]

#: Bytes that an owner may hold of the part that is kept for those who hold little.
MIN_SHARE = 4 * 1024 * 1024
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


class MemoryBudget:
    """`limit` bytes for the whole process, of which owners have the shares of a `Pool`.

    The jobs of an owner hold at most a half of its share, or what one of them needs: the rest is
    for its requests, so that it can submit more while they run.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pool = Pool(limit, MIN_SHARE)
        #: Bytes that the jobs of an owner hold.
        self._jobs: Counter[Owner] = Counter()
        self._by_purpose: Counter[Purpose] = Counter(dict.fromkeys(get_args(Purpose), 0))

    def owner(self, owner: Owner, purpose: Purpose) -> Allocation:
        """Return an allocation of an owner, of 0 bytes."""
        return Allocation(partial(self._charge, owner, purpose))

    def member(self, name: str, purpose: Purpose) -> Allocation:
        """Return an allocation of a member, of 0 bytes."""
        return self.owner(Owner(name), purpose)

    def spare(self, name: str, purpose: Purpose) -> Allocation:
        """Return an allocation of a member for what can be made again, of 0 bytes.

        Its holder gives it up when a function of `add_cache` asks.
        """
        return Allocation(partial(self._charge_spare, Owner(name), purpose))

    def add_cache(self, evict: Callable[[], bool]) -> None:
        """Ask `evict` when memory is needed: it releases something, and returns whether it did."""
        self._pool.add_cache(evict)

    def held(self) -> Mapping[Purpose, int]:
        """Return the bytes that are held for each purpose."""
        return self._by_purpose

    def _charge(self, owner: Owner, purpose: Purpose, growth: int, size: int) -> None:
        if growth <= 0:
            self._pool.give_back(owner, -growth)
        elif not (
            self._leaves_room(owner, purpose, growth, size) and self._pool.take(owner, growth)
        ):
            raise MemoryLimitError(size, self._pool.most(owner))
        self._by_purpose[purpose] += growth
        if purpose == "job":
            self._jobs[owner] += growth
            if not self._jobs[owner]:
                del self._jobs[owner]

    def _leaves_room(self, owner: Owner, purpose: Purpose, growth: int, size: int) -> bool:
        """Return whether the requests of an owner have room beside its jobs."""
        if purpose != "job":
            return True
        return self._jobs[owner] + growth <= max(size, self._pool.most(owner) // 2)

    def _charge_spare(self, owner: Owner, purpose: Purpose, growth: int, size: int) -> None:
        if growth <= 0:
            self._pool.give_back_spare(owner, -growth)
        elif not self._pool.take_spare(owner, growth):
            raise MemoryLimitError(size, self._pool.most(owner))
        self._by_purpose[purpose] += growth
