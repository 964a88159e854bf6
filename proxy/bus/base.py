"""The interface of the bus. It brings what is new, and may lose it: what is true is in storage.

A topic is words with dots between them, such as `events.anna.1a2b`. A message is a `BusMessage`,
which a bus between processes encodes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from types import TracebackType
from typing import Any, Protocol, Self, Union

import msgspec

#: Bytes of messages that wait for a subscriber who reads as an iterator, unless it says otherwise.
MOST_BYTES = 8 * 1024 * 1024
#: Messages that wait for one.
MOST_MESSAGES = 10_000


class BusMessage(msgspec.Struct, frozen=True, tag=True):
    """What a topic brings: values alone, which nobody changes."""

    def to_wire(self) -> Self:
        """The message in what MessagePack knows, without what is of use in this process alone."""
        return self

    def from_wire(self) -> Self:
        """The opposite of `to_wire`."""
        return self


class Missed:
    """Comes instead of messages that were lost: read from storage again."""


#: What handlers and streams get where messages are missing: a stream that was too slow, and all
#: subscribers when the bus has come back.
MISSED = Missed()


def encode(message: BusMessage) -> bytes:
    """The message as bytes."""
    return _encoder.encode(message.to_wire())


def decode(data: bytes | memoryview) -> BusMessage:
    """The opposite of `encode`. Raises `msgspec.DecodeError` for what is no message."""
    return _decoder().decode(data).from_wire()


_encoder = msgspec.msgpack.Encoder()


@cache
def _decoder() -> msgspec.msgpack.Decoder[BusMessage]:
    """A decoder for the messages of all rooms; they are all defined before the first comes."""
    kinds = tuple(_kinds(BusMessage))
    return msgspec.msgpack.Decoder(Union[kinds])  # noqa: UP007 (made of what there is)


def _kinds(base: type[BusMessage]) -> Iterator[type[BusMessage]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


class Subscription(Protocol):
    """A subscription; it ends with `close` or with its block."""

    def close(self) -> None:
        """Stop receiving messages; once more is nothing."""

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
        """Whether messages go to other processes now; while they do not, read from storage."""

    def publish(
        self, topic: str, message: BusMessage, *, size: int = 0, droppable: bool = False
    ) -> None:
        """Bring a message to all subscribers, in the order in which messages were published.

        Subscribers in this process hear it whether the bus is connected or not, and once. Never
        waits and never fails. `size` is about how many bytes the message has; one that is
        `droppable`, such as a preview, is the first to go where a subscriber is too slow.
        """

    async def flush(self) -> None:
        """Wait until what was published is where all processes will hear it from, and what was
        subscribed is heard; at most a moment, and not at all while the bus is not connected.
        Never fails."""

    async def catch_up(self) -> None:
        """Wait until what other processes have flushed is heard here; as `flush`."""

    def subscribe(self, topic: str, handler: Callable[[Any], None]) -> Subscription:
        """Call `handler` with each message of the topic, or, where `topic` ends with `*`, of all
        that begin so, and with `MISSED` when some of other processes were lost.

        What it raises is logged and keeps nothing from the others.
        """

    def stream(
        self, topic: str, *, most_bytes: int = MOST_BYTES, most_messages: int = MOST_MESSAGES
    ) -> MessageStream:
        """The messages of the topic (or topics, as for `subscribe`) as an iterator, of which this
        many may wait."""

    async def close(self) -> None:
        """End all subscriptions."""
