"""What has happened to a followed job and waits to be taken, bounded in number and in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from proxy.engine.tracker import EventReceived, GiveUp, Input, SnapshotReceived
from proxy.sharing.budget import Allocation, ThresholdAllocation
from proxy.translate import codec
from proxy.translate.events import is_terminal
from proxy.translate.frames import CloudPicture, CloudText

#: Above this many inputs pictures are dropped, and an input that says the same as the last one
#: takes its place; above the second number all but the first end are dropped.
_MAX_INPUTS, _MOST_INPUTS = 64, 5000
#: Bytes of the inputs of a job that are not counted.
_UNCOUNTED_BYTES = 64 * 1024
#: What an input takes in memory in addition to its text, and each of its values, in bytes.
_OVERHEAD, _VALUE_BYTES = 256, 96


class Inbox:
    """Inputs of one job, in order. Many bytes take their memory from an allocation of its member.

    An input that comes into an empty inbox is taken next, and counts nothing.
    """

    def __init__(self, allocate: Callable[[], Allocation]) -> None:
        #: Each with its bytes, and whether it is an end.
        self._entries: deque[tuple[Input, int, bool]] = deque()
        self._size, self._ends = 0, 0
        self._allocate = allocate
        self._memory = ThresholdAllocation(_UNCOUNTED_BYTES)

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, what: Input, *, is_held_up: bool) -> bool:
        """Append an input. Return `False` for one that is left out and was no picture.

        Pictures are left out where many inputs wait for more than a turn.
        """
        if isinstance(what, GiveUp):
            self._append(what, 0, ends=False)
            return True
        count, ends = len(self._entries), is_end(what)
        is_picture, is_first_end = isinstance(what, CloudPicture), ends and not self._ends
        if is_picture and is_held_up and count > _MAX_INPUTS:
            return True
        if count > _MOST_INPUTS and not is_first_end:
            return is_picture
        if not is_picture and count > _MAX_INPUTS and _says_the_same(self._entries[-1][0], what):
            self.pop(last=True)
        size = size_of(what) if self._entries else 0
        if size and not self._memory.fits(self._size + size, self._allocate):
            if not is_first_end:
                return is_picture
            size = 0
        self._append(what, size, ends=ends)
        return True

    def put_first(self, inputs: Iterable[Input]) -> None:
        """Put inputs before all others."""
        for what in reversed([*inputs]):
            ends = is_end(what)
            self._entries.appendleft((what, 0, ends))
            self._ends += ends

    def pop(self, *, last: bool = False) -> Input:
        """Remove and return the next input, or the last one. Raises `IndexError`."""
        what, size, ends = self._entries.pop() if last else self._entries.popleft()
        self._ends -= ends
        if size:
            self._size -= size
            self._memory.fits(self._size, self._allocate)
        return what

    def clear(self) -> None:
        """Remove all inputs."""
        self._entries.clear()
        self._size = self._ends = 0
        self._memory.release()

    def _append(self, what: Input, size: int, *, ends: bool) -> None:
        self._entries.append((what, size, ends))
        self._size += size
        self._ends += ends


def is_end(what: Input) -> bool:
    """Return whether an input reports the end of the job."""
    match what:
        case EventReceived(type=type_, data=data):
            return is_terminal(type_, data)
        case SnapshotReceived(snapshot=snapshot):
            return snapshot.ended
    return False


def size_of(what: Input) -> int:
    """Return the approximate bytes of an input: those of its text, and some for each value."""
    match what:
        case CloudPicture(image=image):
            return _OVERHEAD + len(image)
        case CloudText(text=text):
            return _OVERHEAD + len(text)
        case EventReceived(data=data):
            return _OVERHEAD + _json_size(data)
        case SnapshotReceived(snapshot=snapshot) if snapshot.outputs:
            return _OVERHEAD + _json_size(snapshot.outputs)
    return _OVERHEAD


def _json_size(value: object) -> int:
    text = codec.dumps(value)
    return len(text) + _VALUE_BYTES * codec.breadth(text)


def _says_the_same(last: Input, newer: Input) -> bool:
    """Return whether an input says all that the last one does."""
    match last, newer:
        case (
            EventReceived(type="progress" | "progress_state" as type_, data=before),
            EventReceived(type=other, data=data),
        ):
            return type_ == other and before.get("node") == data.get("node")
    return last == newer
