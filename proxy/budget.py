"""The bytes of memory that the process holds for clients: one budget, with a share for each owner.

Code that keeps something in memory whose size a client or the cloud has chosen takes its bytes
from here *before* it keeps them, counted after unpacking, and gives them back afterwards. An owner
is a member, or an address while nobody is signed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self, get_args

from proxy.translate.errors import LocalError

#: What memory is held for; the label `purpose` of the metric `memory_held_bytes`.
Purpose = Literal["answer", "body", "connection", "export", "job", "picture", "socket", "workflow"]

#: The part of the whole that one member may hold, and one address without a member.
MEMBER_SHARE, ADDRESS_SHARE = 1 / 2, 1 / 8
#: Seconds after which it is worth asking again.
_RETRY_AFTER = 2.0


class MemoryLimitError(LocalError):
    """Bytes that do not fit: 413 if they exceed the owner's share, 429 while others are held."""

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


class MemoryBudget:
    """`limit` bytes for the whole process; an owner has a share of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._by_owner: Counter[str] = Counter()
        self._by_purpose: Counter[Purpose] = Counter(dict.fromkeys(get_args(Purpose), 0))

    def member(self, name: str, purpose: Purpose) -> Allocation:
        """Return an allocation of a member, of 0 bytes."""
        return Allocation(self, f"member {name}", purpose, int(self.limit * MEMBER_SHARE))

    def address(self, address: str, purpose: Purpose) -> Allocation:
        """Return an allocation of an address without a member, of 0 bytes."""
        return Allocation(self, f"address {address}", purpose, int(self.limit * ADDRESS_SHARE))

    def held(self) -> Mapping[Purpose, int]:
        """Return the bytes that are held for each purpose."""
        return self._by_purpose

    def charge(self, owner: str, share: int, purpose: Purpose, growth: int) -> bool:
        """Count `growth` more bytes (or fewer, if negative); say whether they fitted."""
        if growth > 0 and not (
            self._by_owner[owner] + growth <= share
            and self._by_purpose.total() + growth <= self.limit
        ):
            return False
        self._by_owner[owner] += growth
        self._by_purpose[purpose] += growth
        if self._by_owner[owner] <= 0:
            del self._by_owner[owner]
        return True


class Allocation:
    """The bytes held for one thing. A context manager that gives them back at its end."""

    def __init__(self, budget: MemoryBudget, owner: str, purpose: Purpose, share: int) -> None:
        self.size = 0
        self._budget = budget
        self._owner = owner
        self._purpose = purpose
        self._share = share

    def resize(self, size: int) -> None:
        """Hold `size` bytes in all. Raises `MemoryLimitError` if the growth does not fit."""
        growth = size - self.size
        if not self._budget.charge(self._owner, self._share, self._purpose, growth):
            raise MemoryLimitError(size, self._share)
        self.size = size

    def grow(self, size: int) -> None:
        """Hold `size` more bytes. Raises `MemoryLimitError` if they do not fit."""
        self.resize(self.size + size)

    def release(self) -> None:
        """Give all bytes back; harmless when repeated."""
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
