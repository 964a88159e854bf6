"""The interface of the bus. It brings what is new, and may lose it: what is true is in storage.

A topic is words with dots between them, such as `events.anna.1a2b`. A message is an immutable
msgspec struct with a tag, which a bus between processes can encode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Protocol, Self

#: Bytes of messages that wait for a subscriber who reads as an iterator, unless it says otherwise.
MOST_BYTES = 8 * 1024 * 1024
#: Messages that wait for one.
MOST_MESSAGES = 10_000


class Missed:
    """Comes in place of messages that a subscriber was too slow for, or that may have been lost
    between processes: read from storage again."""


MISSED = Missed()


class Subscription(Protocol):
    """A subscription; it ends with `close` or with its block."""

    def close(self) -> None:
        """Hear nothing any more; once more is nothing."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """`close`."""


class MessageStream(Subscription, Protocol):
    """A subscription that is read as an iterator."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """The messages in their order, and `MISSED` where some are missing."""


class EventBus(Protocol):
    """Takes messages, and brings them to the subscribers of their topic."""

    @property
    def connected(self) -> bool:
        """Whether messages come and go; if not, storage alone tells what is new."""

    def publish(
        self, topic: str, message: object, *, size: int = 0, droppable: bool = False
    ) -> None:
        """Bring a message to all subscribers, in the order in which messages were published.

        Never waits and never fails. `size` is about how many bytes the message has; one that is
        `droppable`, such as a preview, is the first to go where a subscriber is too slow.
        """

    def subscribe(self, topic: str, handler: Callable[[Any], None]) -> Subscription:
        """Call `handler` with each message of the topic, or, where `topic` ends with `*`, of all
        that begin so, and with `MISSED`. What it raises is logged and keeps nothing from the
        others."""

    def stream(
        self, topic: str, *, most_bytes: int = MOST_BYTES, most_messages: int = MOST_MESSAGES
    ) -> MessageStream:
        """The messages of the topic (or topics, as for `subscribe`) as an iterator, of which so
        many may wait."""

    async def flush(self) -> None:
        """Wait until other processes can read what was published, and publish to what was
        subscribed; not for long, and not at all while the bus is not connected."""

    async def close(self) -> None:
        """End all subscriptions."""
