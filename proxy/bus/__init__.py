"""The bus. It brings what is new, and may lose it: what is true is in storage.

A topic is words with dots between them, such as `events.anna.1a2b`. A message is a `BusMessage`,
which a bus between processes encodes. `EventBus` is that of one process: a call for each
subscriber, no copy, no task.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain
from typing import Any, Self, TypeAlias, Union

import msgspec
import structlog

log = structlog.get_logger(__name__)


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


#: What all subscribers get when the bus has come back.
MISSED = Missed()


def encode(message: BusMessage) -> bytes:
    """Return the message as bytes.

    A lone surrogate, which clients may send in JSON and UTF-8 does not have, becomes a question
    mark, so that the message is not lost.
    """
    wire = message.to_wire()
    try:
        return _encoder.encode(wire)
    except UnicodeEncodeError:
        return _encoder.encode(_without_surrogates(msgspec.to_builtins(wire, builtin_types=_PLAIN)))


def decode(data: bytes | memoryview) -> BusMessage:
    """The opposite of `encode`. Raises `msgspec.DecodeError` for what is no message."""
    return _decoder().decode(data).from_wire()


_encoder = msgspec.msgpack.Encoder()
#: What MessagePack knows beside what JSON does.
_PLAIN = (bytes, bytearray, memoryview)


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case dict():
            return {_without_surrogates(key): _without_surrogates(of) for key, of in value.items()}
        case list() | tuple():
            return [_without_surrogates(item) for item in value]
    return value


@cache
def _decoder() -> msgspec.msgpack.Decoder[BusMessage]:
    """A decoder for the messages of all rooms; they are all defined before the first comes."""
    kinds = tuple(_kinds(BusMessage))
    return msgspec.msgpack.Decoder(Union[kinds])  # noqa: UP007 (made of what there is)


def _kinds(base: type[BusMessage]) -> Iterator[type[BusMessage]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


class Subscription:
    """A handler's subscription to a topic; it ends with `close` or with its block."""

    def __init__(self, bus: EventBus, topic: str, handler: Callable[[Any], None]) -> None:
        self.topic = topic
        self._bus = bus
        self._handler = handler
        self._closed = False

    def take(self, message: Any) -> None:
        """Hand a message on; an error ends here."""
        if self._closed:
            return
        try:
            self._handler(message)
        except Exception:  # a subscriber must not keep a message from the next
            log.exception("subscriber_failed", topic=self.topic)

    def close(self) -> None:
        """Stop receiving messages; once more is nothing."""
        if not self._closed:
            self._closed = True
            self._bus.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_Subscriptions: TypeAlias = tuple[Subscription, ...]


class EventBus:
    """Takes messages, and brings them to the subscribers of their topic, in one event loop."""

    #: Whether the engine is in this process: what others hear of jobs comes from here.
    leads: bool = False

    def __init__(self) -> None:
        self._topics: dict[str, _Subscriptions] = {}
        self._patterns: dict[str, _Subscriptions] = {}
        self._waiting: deque[tuple[Iterable[Subscription], BusMessage | Missed]] = deque()
        self._bringing = False

    @property
    def connected(self) -> bool:
        """Whether messages go to other processes now; while they do not, read from storage."""
        return True

    @property
    def whole(self) -> bool:
        """Whether all that the process that `leads` has published is known to come; if not, the
        storage alone tells what is new."""
        return self.connected

    def publish(self, topic: str, message: BusMessage, *, droppable: bool = False) -> None:
        """Bring a message to all subscribers, in the order in which messages were published: one
        that is published while another is brought comes behind it, for everybody.

        Subscribers in this process hear it whether the bus is connected or not, and once. Never
        waits and never fails. One that is `droppable`, such as a preview, is the first to go where
        the way to other processes is too slow.
        """
        self._bring(self._listeners(topic), message)

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
        subscription = Subscription(self, topic, handler)
        table, key = self._table(topic)
        if key not in table:
            self._added(topic)
        table[key] = (*table.get(key, ()), subscription)
        return subscription

    async def close(self) -> None:
        """End all subscriptions."""
        for table in (self._topics, self._patterns):
            for subscriptions in list(table.values()):
                for subscription in subscriptions:
                    subscription.close()

    def _listeners(self, topic: str) -> Iterable[Subscription]:
        """The subscribers of a topic, at the time when a message is brought."""
        yield from self._topics.get(topic, ())
        if self._patterns:
            for prefix, subscriptions in list(self._patterns.items()):
                if topic.startswith(prefix):
                    yield from subscriptions

    def _tell_missed(self) -> None:
        """Tell every subscriber that messages may be missing."""
        all_ = [*self._topics.values(), *self._patterns.values()]
        self._bring(chain.from_iterable(all_), MISSED)

    def _bring(self, listeners: Iterable[Subscription], message: BusMessage | Missed) -> None:
        self._waiting.append((listeners, message))
        if self._bringing:
            return
        self._bringing = True
        try:
            while self._waiting:
                listeners, message = self._waiting.popleft()
                for subscription in listeners:
                    subscription.take(message)
        finally:
            self._bringing = False

    def _table(self, topic: str) -> tuple[dict[str, _Subscriptions], str]:
        return (self._patterns, topic[:-1]) if topic.endswith("*") else (self._topics, topic)

    def remove(self, subscription: Subscription) -> None:
        """Forget a subscription; who is being told of a message now continues with the old ones."""
        table, key = self._table(subscription.topic)
        left = tuple(one for one in table.get(key, ()) if one is not subscription)
        if left:
            table[key] = left
        elif table.pop(key, None) is not None:
            self._removed(subscription.topic)

    def _added(self, topic: str) -> None:
        """A topic has its first subscriber."""

    def _removed(self, topic: str) -> None:
        """A topic has lost its last subscriber."""
