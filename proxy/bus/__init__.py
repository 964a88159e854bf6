"""Publish and subscribe between the two halves of the proxy.

A topic is any text, such as `jobs` or `events.anna.1a2b`. A message is a `BusMessage`, which a bus
between processes encodes. `EventBus` serves one process: one call for each subscriber, in the order
of publication, without a copy or a task, and nothing is lost. A bus between processes may lose
messages: what must not get lost is read from storage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Self, Union

import msgspec
import structlog

log = structlog.get_logger(__name__)


class BusMessage(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages: immutable values."""

    def to_wire(self) -> Self:
        """Return the message in types of MessagePack, without what only this process can use."""
        return self

    def from_wire(self) -> Self:
        """Return the message that `to_wire` was called on."""
        return self


class Missed:
    """Delivered where a bus between processes has lost messages: the subscriber reads from storage
    again."""


#: What all subscribers get after messages may have been lost.
MISSED = Missed()


def encode(message: BusMessage) -> bytes:
    """Return the message as bytes.

    JSON from a client may contain what MessagePack cannot, and no message is lost for it: a lone
    surrogate becomes a question mark, a whole number of more than 64 bits the nearest that fits.
    """
    wire = message.to_wire()
    try:
        return _encoder.encode(wire)
    except (UnicodeEncodeError, OverflowError):
        return _encoder.encode(_representable(msgspec.to_builtins(wire, builtin_types=_PLAIN)))


def decode(data: bytes | memoryview) -> BusMessage:
    """Return the message of `encode`. Raises `msgspec.MsgspecError` if the bytes are no message."""
    return _decoder().decode(data).from_wire()


_encoder = msgspec.msgpack.Encoder()
#: Types that MessagePack has in addition to those of JSON.
_PLAIN = (bytes, bytearray, memoryview)


def _representable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case int():
            return min(max(value, -(2**63)), 2**64 - 1)
        case dict():
            return {_representable(key): _representable(item) for key, item in value.items()}
        case list() | tuple():
            return [_representable(item) for item in value]
    return value


@cache
def _decoder() -> msgspec.msgpack.Decoder[BusMessage]:
    """Return a decoder for all message types; all are defined before the first message comes."""
    types = tuple(_message_types(BusMessage))
    return msgspec.msgpack.Decoder(Union[types])  # noqa: UP007 (built at run time)


def _message_types(base: type[BusMessage]) -> Iterator[type[BusMessage]]:
    for type_ in base.__subclasses__():
        yield type_
        yield from _message_types(type_)


class Subscription(msgspec.Struct, eq=False):
    """A handler's subscription to a topic; it ends with `close` or with its block."""

    bus: EventBus
    topic: str
    handler: Callable[[Any], None] | None

    def close(self) -> None:
        """Stop receiving messages. A second call does nothing."""
        if self.handler is not None:
            self.handler = None  # it may hold what holds this
            self.bus.remove(self)

    def deliver(self, message: BusMessage | Missed) -> None:
        """Call the handler, unless the subscription has ended; log what it raises."""
        if self.handler is None:
            return
        try:
            self.handler(message)
        except Exception:  # the next one must get the message all the same
            log.exception("subscriber_failed", topic=self.topic)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EventBus:
    """Delivers messages to the subscribers of their topic, in one event loop."""

    #: Whether messages go to other processes, where some may be lost.
    lossy: bool = False
    #: Whether the active engine is in this process, which publishes the events of jobs.
    leads: bool = False

    def __init__(self) -> None:
        self._topics: dict[str, tuple[Subscription, ...]] = {}
        self._waiting: deque[tuple[str, BusMessage | Missed]] = deque()
        self._delivering = False

    @property
    def connected(self) -> bool:
        """Whether messages reach other processes; if not, read from storage."""
        return True

    @property
    def whole(self) -> bool:
        """Whether all messages of the process that `leads` are known to arrive; if not, read what
        is new from storage."""
        return self.connected

    def publish(self, topic: str, message: BusMessage, *, droppable: bool = False) -> None:
        """Deliver a message to all subscribers, in the order of publication: a message that is
        published during a delivery is delivered after it, to everybody.

        Subscribers in this process get it exactly once, whether the bus is connected or not. Never
        waits and never fails. If the connection to other processes is too slow, `droppable`
        messages such as previews are dropped first.
        """
        self._deliver(topic, message)

    async def flush(self) -> None:
        """Wait until other processes will receive what was published, and subscriptions are in
        effect; about two seconds at most. Return at once while the bus is not connected. Never
        fails."""

    async def catch_up(self) -> bool:
        """Wait until what other processes have flushed is delivered here; a second at most.

        Return whether it is, and the bus is `whole`; if not, read what is new from storage.
        """
        return self.whole

    def subscribe(self, topic: str, handler: Callable[[Any], None]) -> Subscription:
        """Call `handler` with each message of `topic`, and with `MISSED` if messages of other
        processes were lost.

        Exceptions of the handler are logged; other subscribers get the message all the same.
        """
        subscription = Subscription(self, topic, handler)
        self._topics[topic] = (*self._topics.get(topic, ()), subscription)
        return subscription

    async def close(self) -> None:
        """End all subscriptions."""
        for subscriptions in list(self._topics.values()):
            for subscription in subscriptions:
                subscription.close()

    def _deliver(self, topic: str, message: BusMessage | Missed) -> None:
        """Deliver a message to those who subscribe to the topic when its turn comes."""
        self._waiting.append((topic, message))
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._waiting:
                topic, message = self._waiting.popleft()
                for subscription in self._topics.get(topic, ()):
                    subscription.deliver(message)
        finally:
            self._delivering = False

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription. A delivery under way continues with the previous subscribers."""
        topic = subscription.topic
        left = tuple(other for other in self._topics.get(topic, ()) if other is not subscription)
        if left:
            self._topics[topic] = left
        else:
            self._topics.pop(topic, None)
