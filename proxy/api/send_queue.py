"""What a socket still has to send: bounded, in order, and without I/O.

A client that reads slowly loses previews first, the oldest ones, and never anything else; when
even the rest grows over the limit, the queue overflows and the socket has to go.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
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
    socket asked. `on_drop` is called for each preview that is left out.
    """

    def __init__(
        self,
        *,
        limit: int = LIMIT,
        preview_limit: int = PREVIEW_LIMIT,
        on_drop: Callable[[], None] = lambda: None,
    ) -> None:
        self.overflowed = False
        self._on_drop = on_drop
        self._limit = limit
        self._preview_limit = preview_limit
        self.metadata = False
        self._waiting: OrderedDict[int, Outgoing] = OrderedDict()
        self._previews: deque[int] = deque()
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

    def put(self, message: Message, *, for_all: bool = False) -> None:
        """Take a message; `for_all` sends a preview as type 1 whatever the socket asked for."""
        if self.overflowed:
            return
        metadata = self.metadata and not for_all
        if isinstance(message, Preview) and message.leads and not metadata:
            self._release()
            self._held = message
            return
        held = self._held
        if held is not None and not _may_pass(message, held):
            self._release()
        self._add(Outgoing(message, metadata))
        if held is not None and _is_progress_of(message, held):
            self._release()

    def pop(self) -> Outgoing | None:
        """The next message to send, if there is one."""
        if not self._waiting:
            return None
        _, outgoing = self._waiting.popitem(last=False)
        self._size -= outgoing.size
        if outgoing.droppable:
            self._preview_size -= outgoing.size
            self._previews.popleft()
        return outgoing

    def _release(self) -> None:
        """Send the preview that waited for its `progress`."""
        held, self._held = self._held, None
        if held is not None:
            self._add(Outgoing(held, metadata=False))

    def _add(self, outgoing: Outgoing) -> None:
        size = outgoing.size
        self._waiting[self._next] = outgoing
        self._size += size
        if outgoing.droppable:
            self._previews.append(self._next)
            self._preview_size += size
        self._next += 1
        while len(self._previews) > 1 and self._preview_size > self._preview_limit:
            dropped = self._waiting.pop(self._previews.popleft())
            self._on_drop()
            self._size -= dropped.size
            self._preview_size -= dropped.size
        self.overflowed = self._size > self._limit


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
