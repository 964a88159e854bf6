"""The bus of one process: a call for each subscriber, no copy, no task."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from itertools import chain
from types import TracebackType
from typing import Any, Self

import structlog

from proxy.bus.base import MISSED, MOST_BYTES, MOST_MESSAGES, BusMessage, Missed

log = structlog.get_logger(__name__)

_Take = Callable[[Any, int, bool], None]
_Brought = tuple[Iterable["_Subscription"], BusMessage | Missed, int, bool]


class MemoryBus:
    """An `EventBus` for one event loop."""

    def __init__(self) -> None:
        self._topics: dict[str, tuple[_Subscription, ...]] = {}
        self._patterns: dict[str, tuple[_Subscription, ...]] = {}
        self._waiting: deque[_Brought] = deque()
        self._bringing = False

    @property
    def connected(self) -> bool:
        """Always."""
        return True

    def publish(
        self, topic: str, message: BusMessage, *, size: int = 0, droppable: bool = False
    ) -> None:
        """Bring a message to all subscribers.

        One that is published while another is brought comes behind it, for everybody.
        """
        self._bring(self._listeners(topic), message, size, droppable)

    async def flush(self) -> None:
        """Nothing is under way."""

    async def catch_up(self) -> None:
        """Nothing is under way."""

    def subscribe(self, topic: str, handler: Callable[[Any], None]) -> _Subscription:
        """Call `handler` with each message of the topic, or of those that a `*` stands for."""

        def take(message: Any, _size: int, _droppable: bool) -> None:
            handler(message)

        return self._add(_Subscription(self, topic, take))

    def stream(
        self, topic: str, *, most_bytes: int = MOST_BYTES, most_messages: int = MOST_MESSAGES
    ) -> MemoryStream:
        """The messages of the topic as an iterator."""
        stream = MemoryStream(self, topic, most_bytes, most_messages)
        self._add(stream)
        return stream

    async def close(self) -> None:
        """End all subscriptions."""
        for table in (self._topics, self._patterns):
            for subscriptions in list(table.values()):
                for subscription in subscriptions:
                    subscription.close()

    def _listeners(self, topic: str) -> Iterable[_Subscription]:
        """The subscribers of a topic, at the time when a message is brought."""
        yield from self._topics.get(topic, ())
        if self._patterns:
            for prefix, subscriptions in list(self._patterns.items()):
                if topic.startswith(prefix):
                    yield from subscriptions

    def _tell_missed(self) -> None:
        """Tell every subscriber that messages may be missing."""
        all_ = [*self._topics.values(), *self._patterns.values()]
        self._bring(chain.from_iterable(all_), MISSED, 0, False)

    def _bring(
        self,
        listeners: Iterable[_Subscription],
        message: BusMessage | Missed,
        size: int,
        droppable: bool,
    ) -> None:
        self._waiting.append((listeners, message, size, droppable))
        if self._bringing:
            return
        self._bringing = True
        try:
            while self._waiting:
                listeners, message, size, droppable = self._waiting.popleft()
                for subscription in listeners:
                    subscription.take(message, size, droppable)
        finally:
            self._bringing = False

    def _table(self, topic: str) -> tuple[dict[str, tuple[_Subscription, ...]], str]:
        return (self._patterns, topic[:-1]) if topic.endswith("*") else (self._topics, topic)

    def _add(self, subscription: _Subscription) -> _Subscription:
        table, key = self._table(subscription.topic)
        if key not in table:
            self._added(subscription.topic)
        table[key] = (*table.get(key, ()), subscription)
        return subscription

    def remove(self, subscription: _Subscription) -> None:
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


class _Subscription:
    """A subscription of a handler."""

    def __init__(self, bus: MemoryBus, topic: str, take: _Take) -> None:
        self.topic = topic
        self._bus = bus
        self._take = take
        self._closed = False

    def take(self, message: Any, size: int, droppable: bool) -> None:
        """Hand a message on; an error ends here."""
        if self._closed:
            return
        try:
            self._take(message, size, droppable)
        except Exception:  # a subscriber must not keep a message from the next
            log.exception("subscriber_failed", topic=self.topic)

    def close(self) -> None:
        """Stop receiving messages."""
        if not self._closed:
            self._closed = True
            self._bus.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class MemoryStream(_Subscription):
    """A subscription that is read, by one reader, with messages that wait up to a bound.

    Where there are too many, droppable ones go first, the oldest of them; then all that wait go,
    and `MISSED` says so.
    """

    def __init__(self, bus: MemoryBus, topic: str, most_bytes: int, most_messages: int) -> None:
        super().__init__(bus, topic, self._keep)
        self._most_bytes = most_bytes
        self._most_messages = most_messages
        self._messages: deque[tuple[Any, int, bool]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()

    def close(self) -> None:
        """Stop receiving messages; the iterator ends behind what waits."""
        super().close()
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            while self._messages:
                message, size, _ = self._messages.popleft()
                self._bytes -= size
                yield message
            if self._closed:
                return
            self._news.clear()
            await self._news.wait()

    def _keep(self, message: Any, size: int, droppable: bool) -> None:
        self._messages.append((message, size, droppable))
        self._bytes += size
        if self._too_many():
            self._drop()
        self._news.set()

    def _too_many(self) -> bool:
        return self._bytes > self._most_bytes or len(self._messages) > self._most_messages

    def _drop(self) -> None:
        waiting, self._messages = self._messages, deque()
        left = len(waiting)
        for one in waiting:
            _, size, droppable = one
            if droppable and (self._bytes > self._most_bytes or left > self._most_messages):
                self._bytes -= size
                left -= 1
            else:
                self._messages.append(one)
        if self._too_many():
            self._messages = deque([(MISSED, 0, False)])
            self._bytes = 0
