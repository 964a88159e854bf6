"""The bus of several processes: Valkey's or Redis' publish and subscribe.

One connection carries commands and messages (RESP3), so that a subscription is in effect before
what is published behind it. A topic is a channel of its own; the number of the URL's database is
part of the channel's name, since publish and subscribe know no databases.

A payload is the publisher's id (8 bytes), 1 if it is droppable or 0 (1 byte), and the message in
MessagePack. Each publisher has a beat, on a channel of its own: its id and how often it has lost
messages (8 bytes, big-endian). A subscriber that sees the number grow has missed something. The
server loses nothing between two connections that last, so that messages need no numbers.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from proxy.bus import BusMessage, EventBus, Subscription, decode, encode

log = structlog.get_logger(__name__)

#: Bytes of messages that wait to be sent: two seconds of the previews of 500 jobs.
MOST_OUTGOING = 64 * 1024 * 1024
#: Bytes of the largest message; a larger one counts as lost.
MAX_MESSAGE = 32 * 1024 * 1024
#: Seconds in which subscribers are told once that messages are missing, however often that is.
MISSED_INTERVAL = 1.0
#: Bytes that are handed to the connection at once; what waits behind them can still be dropped.
_MOST_AT_ONCE = 256 * 1024
#: Seconds between beats; a server that leaves one unanswered for `_PATIENCE` is away.
_BEAT = 0.5
_PATIENCE = 1.5
#: Seconds without a beat after which a publisher is taken for dead, with messages unsent.
_SILENCE = 3.0
#: Seconds without a beat of the publisher that leads after which something that it has published
#: may not have come.
_DOUBT = 0.9
#: Seconds that `flush` waits at most. Longer than `_DOUBT`: behind it the others have what was
#: published, or know that they may lack something.
_FLUSH = 1.0
#: Publishers that are remembered, those that have left included.
_MOST_PUBLISHERS = 1000

_BEATS = "beats"
#: What a publisher that leaves says instead of its losses.
_LEFT = 2**64 - 1
_ERRORS = (RedisError, OSError, TimeoutError)

_Command = tuple[str | bytes, ...]


class BusError(Exception):
    """The server does not do what was asked. The text says why."""


class ValkeyBus(EventBus):
    """An `EventBus` among the processes whose URL is the same.

    The process's own subscribers get a message when it is published, as in memory; `run` brings it
    to the others. Where messages may have been missed (the server was away, a publisher died or
    lost some), every subscriber gets `MISSED`. A message of a type that is not known here, as a
    newer release has it, is left out.
    """

    def __init__(self, url: str, *, most_outgoing: int = MOST_OUTGOING) -> None:
        super().__init__()
        self._client = Redis.from_url(
            url,
            protocol=3,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,  # the beat has one
            socket_connect_timeout=_PATIENCE,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        number = self._client.connection_pool.connection_kwargs.get("db") or 0
        self._prefix = f"comfy-cloud-proxy:{number}:"
        self._id = secrets.token_bytes(8)
        self._losses = 0
        self._left = False
        #: The losses of each other publisher, and when its last beat came.
        self._publishers: dict[bytes, tuple[int, float]] = {}
        #: The one that leads, as far as has been heard.
        self._leader = b""
        #: Those of whose silence the subscribers know.
        self._silent: set[bytes] = set()
        self._lost_at = -math.inf
        #: Commands and waiters, with the bytes of a message and whether it is droppable.
        self._outgoing: deque[tuple[_Command | asyncio.Future[None], int, bool]] = deque()
        self._outgoing_bytes = 0
        self._most_outgoing = most_outgoing
        self._news = asyncio.Event()
        #: What the server has not answered yet, and who waits for the answers before.
        self._unanswered: deque[asyncio.Future[None] | None] = deque()
        self._catching_up: asyncio.Future[None] | None = None
        self._serving = False
        self._connected = asyncio.Event()
        #: When subscribers were last told that messages are missing, and the timer of the next.
        self._missed_at = -math.inf
        self._missing: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """Whether messages come and go; if not, storage alone tells what is new."""
        return self._connected.is_set()

    @property
    def whole(self) -> bool:
        """Whether the connection is there, and the publisher that leads was heard just now."""
        leader = self._publishers.get(self._leader)
        if not self.connected or self.leads or leader is None:
            return self.connected
        return asyncio.get_running_loop().time() - leader[1] < _DOUBT

    async def check(self) -> None:
        """Publish something for nobody, and close. Raises `BusError`."""
        try:
            async with asyncio.timeout(2 * _PATIENCE):
                await self._client.publish(f"{self._prefix}check", b"")
        except _ERRORS as error:
            raise BusError(" ".join(str(error).split()) or "it does not answer") from error
        finally:
            await self._client.aclose()

    async def run(self) -> None:
        """Keep a connection for ever; the caller keeps it running."""
        backoff = ExponentialWithJitterBackoff(cap=1.0, base=0.05)
        failures = 0
        while True:
            try:
                await self._connect_and_serve()
            except* _ERRORS as errors:
                if self.connected or not failures:
                    log.warning("bus_disconnected", error=repr(_first(errors)))
                failures = 1 if self.connected else failures + 1
            finally:
                self._disconnected()
                await self._client.aclose()
            await asyncio.sleep(backoff.compute(failures))

    async def until_connected(self, patience: float) -> bool:
        """Wait this many seconds for the connection; whether it is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._connected.wait()
        return self.connected

    def publish(self, topic: str, message: BusMessage, *, droppable: bool = False) -> None:
        """Bring a message to the subscribers here at once, and send it to the others."""
        if self.connected:
            self._send(topic, message, droppable=droppable)
        elif not droppable:
            self._losses += 1
        super().publish(topic, message)

    async def flush(self) -> None:
        """Wait until the server has what was published and subscribed, or the others know that they
        may lack it; a second at most."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH):
                await self._answered()
        if not self.connected:
            await asyncio.sleep(min(_FLUSH, self._lost_at + _FLUSH - loop.time()))

    async def catch_up(self) -> None:
        """Wait until what the server had is heard, or it is away; a second at most.

        Those who ask while the question of another waits to be sent share its answer.
        """
        if not self.connected:
            return
        waiter = self._catching_up
        if waiter is None:
            self._put(("PING",))
            waiter = self._catching_up = asyncio.get_running_loop().create_future()
            self._put(waiter)
        await asyncio.wait([waiter], timeout=_FLUSH)

    async def close(self) -> None:
        """Send what waits, and end all subscriptions."""
        if self._missing is not None:
            self._missing.cancel()
        if self.connected:
            self._left = True
            self._publish_beat()
            await self.flush()
        await super().close()

    # --- out -------------------------------------------------------------------------------

    def _send(self, topic: str, message: BusMessage, *, droppable: bool) -> None:
        try:
            body = encode(message)
        except (TypeError, ValueError, OverflowError):  # a fault of the program's own
            log.exception("message_not_encoded", topic=topic)
            self._lose()
            return
        if len(body) > MAX_MESSAGE:
            log.warning("message_refused", topic=topic, size=len(body))
            if not droppable:
                self._lose()
            return
        payload = b"".join((self._id, b"\1" if droppable else b"\0", body))
        self._put(("PUBLISH", self._prefix + topic, payload), len(payload), droppable)
        if self._outgoing_bytes > self._most_outgoing:
            self._drop()

    def _put(
        self, what: _Command | asyncio.Future[None], size: int = 0, droppable: bool = False
    ) -> None:
        self._outgoing.append((what, size, droppable))
        self._outgoing_bytes += size
        self._news.set()

    def _drop(self) -> None:
        """Drop the oldest droppable messages, and if that is not enough all messages.

        A quarter of the room is free behind it, so that this is not done for each message.
        """
        kept: deque[tuple[_Command | asyncio.Future[None], int, bool]] = deque()
        most = self._most_outgoing * 3 // 4
        for one in self._outgoing:
            if one[2] and self._outgoing_bytes > most:
                self._outgoing_bytes -= one[1]
            else:
                kept.append(one)
        self._outgoing = kept
        if self._outgoing_bytes > self._most_outgoing:
            self._outgoing = deque(one for one in kept if not one[1])
            self._outgoing_bytes = 0
            self._lose()

    def _lose(self) -> None:
        """Tell the others that messages are lost."""
        self._losses += 1
        self._publish_beat()

    def _publish_beat(self) -> None:
        losses = _LEFT if self._left else self._losses
        payload = b"".join((self._id, bytes([self.leads]), losses.to_bytes(8, "big")))
        self._put(("PUBLISH", self._prefix + _BEATS, payload))

    async def _answered(self) -> None:
        """Wait until the server has answered all that was put so far."""
        if self.connected and (self._outgoing or self._unanswered):
            waiter = asyncio.get_running_loop().create_future()
            self._put(waiter)
            await waiter

    def _next_commands(self) -> list[_Command]:
        """What is sent next, now unanswered."""
        commands: list[_Command] = []
        size = 0
        while self._outgoing and size < _MOST_AT_ONCE:
            what, bytes_, _ = self._outgoing.popleft()
            size += bytes_
            if isinstance(what, asyncio.Future):
                self._unanswered.append(what)
                if what is self._catching_up:
                    self._catching_up = None
            else:
                commands.append(what)
                self._unanswered.append(None)
        self._outgoing_bytes -= size
        return commands

    # --- the connection --------------------------------------------------------------------

    async def _connect_and_serve(self) -> None:
        """Connect, subscribe again, and carry messages until something fails."""
        pubsub: Any = self._client.pubsub(push_handler_func=_same)
        try:
            async with asyncio.timeout(_PATIENCE):
                await pubsub.connect()
            connection = pubsub.connection
            self._serving = True
            self._put(("SUBSCRIBE", self._prefix + _BEATS))
            for topic in [*self._topics, *(f"{prefix}*" for prefix in self._patterns)]:
                self._added(topic)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(connection))
                tasks.create_task(self._read(connection))
                tasks.create_task(self._beat())
        finally:
            await pubsub.aclose()

    async def _write(self, connection: Any) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._outgoing:
                if commands := self._next_commands():
                    packed = connection.pack_commands(commands)
                    await connection.send_packed_command(packed, check_health=False)
                self._settle()

    async def _read(self, connection: Any) -> None:
        while True:
            try:
                answer = await connection.read_response(timeout=math.inf, push_request=True)
            except ResponseError as error:  # such as a rule of the server's that forbids a channel
                log.error("bus_command_failed", error=str(error))
                answer = None
            if isinstance(answer, list):
                self._hear(answer)
            else:
                self._answer()

    async def _beat(self) -> None:
        """Tell the others that this publisher lives, and see that the server does.

        The first answers say that the subscriptions are in effect.
        """
        while True:
            self._publish_beat()
            waiter = asyncio.get_running_loop().create_future()
            self._put(waiter)
            async with asyncio.timeout(_PATIENCE):
                await waiter
            if not self.connected:
                self._connected.set()
                log.info("bus_connected")
                self._tell_missed()
            self._find_silent()
            await asyncio.sleep(_BEAT)

    def _disconnected(self) -> None:
        self._serving = False
        now = asyncio.get_running_loop().time()
        if self.connected:
            self._lost_at = now
        self._connected.clear()
        self._losses += 1  # what was not answered
        self._publishers = {
            one: (lost, heard if one in self._silent else now)
            for one, (lost, heard) in self._publishers.items()
        }
        waiters = [what for what, _, _ in self._outgoing if isinstance(what, asyncio.Future)]
        waiters += [what for what in self._unanswered if what is not None]
        self._outgoing.clear()
        self._outgoing_bytes = 0
        self._unanswered.clear()
        self._catching_up = None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- in --------------------------------------------------------------------------------

    def _hear(self, push: Sequence[Any]) -> None:
        kind = push[0]
        if kind == b"message":
            topic, payload = self._topic(push[1]), push[2]
            if payload[:8] == self._id:
                return
            if topic == _BEATS:
                self._beat_came(payload[:8], payload[8], int.from_bytes(payload[9:], "big"))
            else:
                self._receive(payload, topic, self._topics.get(topic, ()))
        elif kind == b"pmessage":
            if push[3][:8] != self._id:
                pattern = _QUOTED.sub(r"\1", self._topic(push[1])[:-1])
                self._receive(push[3], pattern, self._patterns.get(pattern, ()))
        else:
            self._answer()

    def _topic(self, channel: bytes) -> str:
        return channel.decode()[len(self._prefix) :]

    def _receive(self, payload: bytes, topic: str, subscribers: Iterable[Subscription]) -> None:
        try:
            message = decode(memoryview(payload)[9:])
        except msgspec.MsgspecError as error:
            log.warning("message_refused", topic=topic, error=str(error))
            return
        self._bring(subscribers, message)

    def _answer(self) -> None:
        """The server has answered the oldest command."""
        self._unanswered.popleft()
        self._settle()

    def _settle(self) -> None:
        while self._unanswered and (waiter := self._unanswered[0]) is not None:
            self._unanswered.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def _beat_came(self, publisher: bytes, leads: int, losses: int) -> None:
        if leads:
            self._leader = publisher
        known = self._publishers.pop(publisher, None)
        self._silent.discard(publisher)
        if losses == _LEFT:
            return
        self._publishers[publisher] = (losses, asyncio.get_running_loop().time())
        if len(self._publishers) > _MOST_PUBLISHERS:
            oldest = next(iter(self._publishers))
            del self._publishers[oldest]
            self._silent.discard(oldest)
        if losses != (0 if known is None else known[0]):
            log.info("messages_missed", publisher=publisher.hex(), losses=losses)
            self._tell_missed_soon()

    def _tell_missed_soon(self) -> None:
        """Tell subscribers that messages are missing: now, or once for all of an interval."""
        loop = asyncio.get_running_loop()
        wait = self._missed_at + MISSED_INTERVAL - loop.time()
        if wait <= 0:
            self._missed_at = loop.time()
            self._tell_missed()
        elif self._missing is None:
            self._missing = loop.call_later(wait, self._tell_missing)

    def _tell_missing(self) -> None:
        self._missing = None
        self._missed_at = asyncio.get_running_loop().time()
        self._tell_missed()

    def _find_silent(self) -> None:
        """Take publishers for dead that are silent: what they published last may be lost."""
        since = asyncio.get_running_loop().time() - _SILENCE
        silent = {one for one, (_, heard) in self._publishers.items() if heard < since}
        silent -= self._silent
        for publisher in silent:
            log.info("messages_missed", publisher=publisher.hex(), reason="it is silent")
        self._silent |= silent
        if silent:
            self._tell_missed()

    # --- subscriptions ---------------------------------------------------------------------

    def _added(self, topic: str) -> None:
        self._change("SUBSCRIBE", topic)

    def _removed(self, topic: str) -> None:
        self._change("UNSUBSCRIBE", topic)

    def _change(self, command: str, topic: str) -> None:
        if self._serving:
            if topic.endswith("*"):
                quoted = _SPECIAL.sub(r"\\\g<0>", topic[:-1])
                self._put((f"P{command}", f"{self._prefix}{quoted}*"))
            else:
                self._put((command, self._prefix + topic))


#: What means something in a pattern of the server's.
_SPECIAL = re.compile(r"[*?\[\]^\\]")
_QUOTED = re.compile(r"\\(.)")


async def _same(push: Any) -> Any:
    """Leave a push to its reader."""
    return push


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
