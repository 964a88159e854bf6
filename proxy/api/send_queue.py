"""The messages that wait to be sent on one websocket, in the order of a local ComfyUI."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct, field

from proxy.translate.events import Event, Message, Preview, size_of

#: Maximum bytes that wait; with more the socket is closed.
MAX_BYTES = 64 * 1024 * 1024
#: Maximum bytes of previews that wait; older ones are dropped first.
MAX_PREVIEW_BYTES = 2 * 1024 * 1024


class Outgoing(Struct, frozen=True):
    """A message to send, of `size` bytes in memory. `metadata` makes a preview of type 4, otherwise
    it is of type 1."""

    message: Message
    metadata: bool
    size: int


class SendQueue(Struct, eq=False):
    """The messages for one socket, in the order in which a local ComfyUI sends them.

    As in a local ComfyUI, a preview that leads its `progress` is sent before it to a socket that
    asked for metadata, and after it to any other. `metadata` is whether the socket asked. What
    waits has about `size` bytes. The queue has `overflowed` with more than `max_bytes`; with more
    than `max_preview_bytes` of previews the oldest are dropped, whose number is given to
    `count_dropped`.
    """

    count_dropped: Callable[[int], object] = int
    max_bytes: int = MAX_BYTES
    max_preview_bytes: int = MAX_PREVIEW_BYTES
    metadata: bool = False
    overflowed: bool = False
    size: int = 0
    # An empty deque takes three times the memory of an empty OrderedDict.
    _waiting: OrderedDict[int, Outgoing] = field(default_factory=OrderedDict)
    _previews: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _held: Preview | None = None
    _next: int = 0
    _preview_size: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def want_metadata(self, wanted: bool) -> None:
        """Send later previews as type 4 if `wanted`, otherwise as type 1."""
        self._release()
        self.metadata = wanted

    def put(self, message: Message, *, for_all: bool = False) -> None:
        """Append a message; `for_all` sends a preview as type 1 whatever the socket asked for."""
        if self.overflowed:
            return
        metadata = self.metadata and not for_all
        if isinstance(message, Preview) and message.leads and not metadata:
            self._release()
            self._held = message
        elif self._held is None:
            self._add(message, metadata=metadata)
        else:
            self._add_beside(self._held, message, metadata=metadata)

    def _add_beside(self, held: Preview, message: Message, *, metadata: bool) -> None:
        """Append a message before the preview that is held, or after it."""
        if not _may_pass(message, held):
            self._release()
        self._add(message, metadata=metadata)
        if _is_progress_of(message, held):
            self._release()

    def pop(self) -> Outgoing | None:
        """Remove and return the next message, `None` if there is none."""
        if not self._waiting:
            return None
        number, outgoing = self._waiting.popitem(last=False)
        self.size -= outgoing.size
        if number in self._previews:
            del self._previews[number]
            self._preview_size -= outgoing.size
        return outgoing

    def _release(self) -> None:
        """Append the preview that waits for its `progress`."""
        held, self._held = self._held, None
        if held is not None:
            self._add(held, metadata=False)

    def _add(self, message: Message, *, metadata: bool) -> None:
        size = size_of(message)
        self._waiting[self._next] = Outgoing(message, metadata, size)
        self.size += size
        if isinstance(message, Preview) and not message.result:
            self._previews[self._next] = None
            self._preview_size += size
            self._drop_previews()
        self._next += 1
        self.overflowed = self.size > self.max_bytes

    def _drop_previews(self) -> None:
        """Drop the oldest previews while there are too many bytes of them."""
        while len(self._previews) > 1 and self._preview_size > self.max_preview_bytes:
            number, _ = self._previews.popitem(last=False)
            dropped = self._waiting.pop(number)
            self.size -= dropped.size
            self._preview_size -= dropped.size
            self.count_dropped(1)


def _may_pass(message: Message, held: Preview) -> bool:
    """Return whether a message overtakes the preview that waits: progress, or another job's."""
    if not isinstance(message, Event):
        return isinstance(message, Preview) and message.prompt_id != held.prompt_id
    if message.type in ("status", "feature_flags", "progress_state", "progress"):
        return True
    return bool(message.data.get("prompt_id", held.prompt_id) != held.prompt_id)


def _is_progress_of(message: Message, held: Preview) -> bool:
    """Return whether a message is the `progress` that a preview leads."""
    return (
        isinstance(message, Event)
        and message.type == "progress"
        and message.data.get("prompt_id") == held.prompt_id
    )
