"""The messages that many sockets of a member get, each in its turn.

A message is kept once for all sockets; each has a number from which on it is behind. Of messages
that say the same again (`status`, the progress and the previews of a job) only the newest stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from proxy.sharing.budget import Allocation, ThresholdAllocation
from proxy.translate.events import Event, Message, Preview, is_droppable, size_of

#: Bytes from which they are taken from the member's budget.
_MIN_BUDGETED = 256 * 1024


class LoggedMessage(NamedTuple):
    """A message to all sockets of a member, or `of_job` to those that hear of a job without
    client."""

    message: Message
    of_job: bool = False


class MessageLog:
    """What is still to be sent to sockets of a member, in order. `allocate` returns an allocation
    of the member's memory."""

    def __init__(self, allocate: Callable[[], Allocation]) -> None:
        self._allocate = allocate
        self._entries: OrderedDict[int, LoggedMessage] = OrderedDict()
        #: The numbers of the newest of messages that say the same.
        self._newest: dict[tuple[str, str], int] = {}
        self._held = ThresholdAllocation(_MIN_BUDGETED)
        self._size = 0
        #: The number of the last message.
        self.last = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_only_status(self) -> bool:
        """Whether there is nothing but a `status`."""
        return len(self._entries) == 1 and ("status", "") in self._newest

    def append(self, logged: LoggedMessage) -> bool:
        """Append a message. Return whether there is memory for it."""
        if (kind := _kind(logged.message)) is not None and kind in self._newest:
            self._remove(self._newest[kind])
        size = size_of(logged.message)
        if not self._held.fits(self._size + size, self._allocate):
            return False
        self.last += 1
        self._size += size
        self._entries[self.last] = logged
        if kind is not None:
            self._newest[kind] = self.last
        return True

    def after(self, number: int) -> Iterator[LoggedMessage]:
        """Yield the messages behind a number."""
        for own, logged in self._entries.items():
            if own > number:
                yield logged

    def trim(self, until: int) -> None:
        """Forget the messages up to a number, which all sockets have."""
        while self._entries and (first := next(iter(self._entries))) <= until:
            self._remove(first)
        self._held.fits(self._size, self._allocate)

    def close(self) -> None:
        """Forget all messages."""
        self.trim(self.last)

    def _remove(self, number: int) -> None:
        message = self._entries.pop(number).message
        self._size -= size_of(message)
        kind = _kind(message)
        if kind is not None and self._newest.get(kind) == number:
            del self._newest[kind]


def _kind(message: Message) -> tuple[str, str] | None:
    """Return what a message says again, `None` for one that says something else each time."""
    match message:
        case Event(type="status"):
            return "status", ""
        case Event(type="progress" | "progress_state" as type_, data=data):
            return type_, str(data.get("prompt_id"))
        case Preview(prompt_id=prompt_id) if is_droppable(message):
            return "preview", prompt_id
    return None
