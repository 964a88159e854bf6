"""What a socket still has to send: bounded, in order, and without I/O.

A client that reads slowly loses previews first, the oldest ones, and never anything else; when
even the rest grows over the limit, the queue overflows and the socket has to go.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from proxy.translate.messages import Event, Message, Preview

#: Bytes that may wait before the client counts as gone.
LIMIT = 64 * 1024 * 1024
#: Bytes of previews that may wait before older ones make room.
PREVIEW_LIMIT = 2 * 1024 * 1024
#: What a waiting message weighs beside its own bytes.
OVERHEAD = 256


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way; `metadata` asks for a preview of type 4, else it is of type 1."""

    message: Message
    metadata: bool

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        match self.message:
            case Event() as event:
                return OVERHEAD + len(event.text)
            case Preview() as preview:
                return OVERHEAD + len(preview.image)
            case text:
                return OVERHEAD + len(text.text)

    @property
    def droppable(self) -> bool:
        """Whether it is a mere preview."""
        return isinstance(self.message, Preview) and not self.message.result


class SendQueue:
    """Messages in the order in which a local ComfyUI sends them to this one socket.

    A preview that leads its `progress` is sent in its place to a socket that asked for metadata,
    and behind that `progress` to any other, as a local ComfyUI does. `metadata` says whether the
    socket asked.
    """

    __slots__ = (
        "_held",
        "_limit",
        "_next",
        "_preview_limit",
        "_preview_size",
        "_previews",
        "_size",
        "_waiting",
        "metadata",
        "overflowed",
    )

    def __init__(self, *, limit: int = LIMIT, preview_limit: int = PREVIEW_LIMIT) -> None:
        self.overflowed = False
        self._limit = limit
        self._preview_limit = preview_limit
        self.metadata = False
        # An empty deque takes three times the memory of an empty OrderedDict.
        self._waiting: OrderedDict[int, Outgoing] = OrderedDict()
        self._previews: OrderedDict[int, None] = OrderedDict()
        self._held: Preview | None = None
        self._next = 0
        self._size = 0
        self._preview_size = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def want_metadata(self, wanted: bool) -> None:
        """Previews from now on go out as type 4, or as type 1."""
        self._release()
        self.metadata = wanted

    def put(self, message: Message, *, for_all: bool = False) -> int:
        """Take a message; `for_all` sends a preview as type 1 whatever the socket asked for.

        Returns how many previews had to make room.
        """
        if self.overflowed:
            return 0
        metadata = self.metadata and not for_all
        if isinstance(message, Preview) and message.leads and not metadata:
            dropped = self._release()
            self._held = message
            return dropped
        held, dropped = self._held, 0
        if held is not None and not _may_pass(message, held):
            dropped += self._release()
        dropped += self._add(Outgoing(message, metadata))
        if held is not None and _is_progress_of(message, held):
            dropped += self._release()
        return dropped

    def pop(self) -> Outgoing | None:
        """The next message to send, if there is one."""
        if not self._waiting:
            return None
        number, outgoing = self._waiting.popitem(last=False)
        self._size -= outgoing.size
        if outgoing.droppable:
            self._preview_size -= outgoing.size
            del self._previews[number]
        return outgoing

    def _release(self) -> int:
        """Send the preview that waited for its `progress`; how many had to make room."""
        held, self._held = self._held, None
        return 0 if held is None else self._add(Outgoing(held, metadata=False))

    def _add(self, outgoing: Outgoing) -> int:
        size = outgoing.size
        self._waiting[self._next] = outgoing
        self._size += size
        if outgoing.droppable:
            self._previews[self._next] = None
            self._preview_size += size
        self._next += 1
        count = 0
        while len(self._previews) > 1 and self._preview_size > self._preview_limit:
            number, _ = self._previews.popitem(last=False)
            dropped = self._waiting.pop(number)
            count += 1
            self._size -= dropped.size
            self._preview_size -= dropped.size
        self.overflowed = self._size > self._limit
        return count


def _may_pass(message: Message, held: Preview) -> bool:
    """Whether a message goes before the preview that waits: its progress, and other jobs'."""
    if not isinstance(message, Event):
        return isinstance(message, Preview) and message.prompt_id != held.prompt_id
    if message.type in ("status", "feature_flags", "progress_state", "progress"):
        return True
    return bool(message.data.get("prompt_id", held.prompt_id) != held.prompt_id)


def _is_progress_of(message: Message, held: Preview) -> bool:
    """Whether a message is the `progress` that a preview leads."""
    return (
        isinstance(message, Event)
        and message.type == "progress"
        and message.data.get("prompt_id") == held.prompt_id
    )
