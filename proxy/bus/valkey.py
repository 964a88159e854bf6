"""The bus of several processes: Valkey's or Redis' publish and subscribe.

One connection carries commands and messages (RESP3), so that a subscription is in effect before
what is published after it. A topic is a channel of its own; the number of the URL's database is
part of the channel's name, since publish and subscribe know no databases.

A payload is the publisher's id (8 bytes), 1 if it is droppable or 0 (1 byte), and the message in
MessagePack. Each publisher sends a `Beat`, on a channel of its own. A subscriber that sees its
losses grow has missed something. The server loses nothing between two connections that last, so
that messages need no numbers.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from proxy import randomness
from proxy.backoff import Backoff
from proxy.bus import MISSED, BusMessage, EventBus, Subscription, decode, encode
from proxy.bus.command_queue import CommandQueue
from proxy.bus.publishers import ID_BYTES, MAX_LEADER_SILENCE, Beat, Publishers
from proxy.waits import until_set

log = structlog.get_logger(__name__)

#: Bytes of messages that wait to be sent: two seconds of the previews of 500 jobs.
MAX_OUTGOING = 64 * 1024 * 1024
#: Bytes of the largest message; a larger one counts as lost.
MAX_MESSAGE_BYTES = 32 * 1024 * 1024
#: Minimum seconds between two `MISSED` messages to a subscriber.
MISSED_INTERVAL = 1.0
#: Seconds between two beats. The server is considered gone if one is unanswered for `_TIMEOUT`.
_BEAT_INTERVAL = 0.5
_TIMEOUT = 1.5
#: Seconds since the last answered beat after which messages that arrive may have waited here, while
#: this process stood still.
_MAX_UNREAD_AGE = _BEAT_INTERVAL + 0.25
#: Maximum seconds of a `flush`: after that the other processes have what was published, or know
#: that they may lack it, also if the last beat that they count came to them late.
_FLUSH_TIMEOUT = MAX_LEADER_SILENCE + _MAX_UNREAD_AGE
#: Seconds before it connects again.
_RECONNECT = Backoff(0.05, 1.0)
#: Maximum seconds of a `catch_up`.
_CATCH_UP_TIMEOUT = 1.0

_BEATS = "beats"
_ERRORS = (RedisError, OSError, TimeoutError)


class BusError(Exception):
    """Raised when the server cannot be used as a bus. The text says why."""


class ValkeyBus(EventBus):
    """An `EventBus` among the processes whose URL is the same.

    Subscribers in this process get a message when it is published, as in memory; `run` sends it to
    the other processes. If messages may have been lost (the server was not reachable, a publisher
    died or dropped some), every subscriber gets `MISSED`. Messages of an unknown type, which a
    newer release may send, are dropped.
    """

    lossy = True

    def __init__(self, url: str, *, max_outgoing: int = MAX_OUTGOING) -> None:
        super().__init__()
        self._client = Redis.from_url(
            url,
            protocol=3,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=None,  # the beat has one
            socket_connect_timeout=_TIMEOUT,
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        number = self._client.connection_pool.connection_kwargs.get("db") or 0
        self._prefix = f"comfy-cloud-proxy:{number}:"
        self._id = randomness.token_bytes(ID_BYTES)
        self._losses = 0
        self._left = False
        self._publishers = Publishers()
        self._lost_at = -math.inf
        self._commands = CommandQueue(max_outgoing)
        self._serving = False
        #: What is read now was sent to this process later than that.
        self._read_up_to = -math.inf
        self._connected = asyncio.Event()
        #: When subscribers last got `MISSED`, and the timer of the next.
        self._missed_at = -math.inf
        self._missed_timer: asyncio.TimerHandle | None = None

    @property
    def connected(self) -> bool:
        """Whether messages are sent and received; if not, read what is new from storage."""
        return self._connected.is_set()

    @property
    def whole(self) -> bool:
        """Whether the bus is connected, a beat of the leading publisher has just come, and the
        subscribers know of all losses."""
        if not self.connected or self.leads:
            return self.connected
        if self._missed_timer is not None:
            return False
        return not self._publishers.is_leader_silent(asyncio.get_running_loop().time())

    async def check(self) -> None:
        """Check that the server accepts a message, then close. Raises `BusError`."""
        try:
            async with asyncio.timeout(2 * _TIMEOUT):
                await self._client.publish(f"{self._prefix}check", b"")
        except _ERRORS as error:
            raise BusError(" ".join(str(error).split()) or "it does not answer") from error
        finally:
            await self._client.aclose()

    async def run(self) -> None:
        """Connect, and reconnect after failures, until cancelled."""
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
            await asyncio.sleep(_RECONNECT.after(failures))

    async def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the connection. Return whether it is open."""
        await until_set(self._connected, timeout)
        return self.connected

    def publish(self, topic: str, message: BusMessage, *, droppable: bool = False) -> None:
        """Deliver a message to the subscribers here, and send it to the other processes."""
        if self.connected:
            self._send(topic, message, droppable=droppable)
        elif not droppable:
            self._losses += 1
        super().publish(topic, message)

    async def flush(self) -> None:
        """Wait until the server has what was published and subscribed, or the other processes know
        that they may lack it; at most `_FLUSH_TIMEOUT`."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIMEOUT):
                if self.connected and not self._commands.is_empty:
                    await self._commands.answers()
        if not self.connected:
            await asyncio.sleep(min(_FLUSH_TIMEOUT, self._lost_at + _FLUSH_TIMEOUT - loop.time()))

    async def catch_up(self) -> bool:
        """Wait until all messages that the server had are delivered; at most `_CATCH_UP_TIMEOUT`.

        Return whether they are, and the bus is `whole`: at once if it is not connected. Concurrent
        callers share one round trip.
        """
        if not self.connected:
            return False
        answered = self._commands.round_trip()
        await asyncio.wait([answered], timeout=_CATCH_UP_TIMEOUT)
        return answered.done() and self.whole

    async def close(self) -> None:
        """Send what waits, and end all subscriptions."""
        if self._missed_timer is not None:
            self._missed_timer.cancel()
        if self.connected:
            self._left = True
            self._publish_beat()
            await self.flush()
        await super().close()

    # --- sending ---------------------------------------------------------------------------

    def _send(self, topic: str, message: BusMessage, *, droppable: bool) -> None:
        try:
            body = encode(message)
        except (TypeError, ValueError, OverflowError):  # a fault of the program's own
            log.exception("message_not_encoded", topic=topic)
            self._lose()
            return
        if len(body) > MAX_MESSAGE_BYTES:
            log.warning("message_refused", topic=topic, size=len(body))
            if not droppable:
                self._lose()
            return
        payload = b"".join((self._id, b"\1" if droppable else b"\0", body))
        command = "PUBLISH", self._prefix + topic, payload
        if not self._commands.put_message(command, len(payload), droppable=droppable):
            self._lose()

    def _lose(self) -> None:
        """Let the other processes know that messages are lost."""
        self._losses += 1
        self._publish_beat()

    def _publish_beat(self) -> None:
        # Before it is connected it sends nothing else, and must not pass for a leader that does.
        leads = self.leads and self.connected
        beat = Beat(self._id, leads, None if self._left else self._losses)
        self._commands.put(("PUBLISH", self._prefix + _BEATS, beat.encode()))

    # --- the connection --------------------------------------------------------------------

    async def _connect_and_serve(self) -> None:
        """Connect, subscribe again, and send and receive messages until something fails."""
        pubsub: Any = self._client.pubsub(push_handler_func=_same)
        try:
            async with asyncio.timeout(_TIMEOUT):
                await pubsub.connect()
            connection = pubsub.connection
            self._serving = True
            self._commands.put(("SUBSCRIBE", self._prefix + _BEATS))
            for topic in self._topics:
                self._change("SUBSCRIBE", topic)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(connection))
                tasks.create_task(self._read(connection))
                tasks.create_task(self._beat())
        finally:
            await pubsub.aclose()

    async def _write(self, connection: Any) -> None:
        while True:
            packed = connection.pack_commands(await self._commands.next_batch())
            await connection.send_packed_command(packed, check_health=False)

    async def _read(self, connection: Any) -> None:
        while True:
            try:
                answer = await connection.read_response(timeout=math.inf, push_request=True)
            except ResponseError as error:  # such as a rule of the server's that forbids a channel
                log.error("bus_command_failed", error=str(error))
                answer = None
            if isinstance(answer, list):
                self._receive_push(answer)
            else:
                self._commands.answered()

    async def _beat(self) -> None:
        """Send a beat at an interval, and check that the server answers it.

        The first answer means that the subscriptions are in effect.
        """
        while True:
            beaten_at = asyncio.get_running_loop().time()
            self._publish_beat()
            async with asyncio.timeout(_TIMEOUT):
                await self._commands.answers()
            self._read_up_to = beaten_at
            if not self.connected:
                self._connected.set()
                log.info("bus_connected")
                self._tell_missed()
            self._find_silent()
            await asyncio.sleep(_BEAT_INTERVAL)

    def _disconnected(self) -> None:
        self._serving = False
        now = asyncio.get_running_loop().time()
        if self.connected:
            self._lost_at = now
        self._connected.clear()
        self._losses += 1  # what was not answered
        self._publishers.restart(now)
        self._commands.clear()

    # --- receiving -------------------------------------------------------------------------

    def _receive_push(self, push: Sequence[Any]) -> None:
        if push[0] != b"message":
            self._commands.answered()
            return
        topic, payload = push[1].decode()[len(self._prefix) :], push[2]
        if payload[:ID_BYTES] == self._id:
            return
        if topic == _BEATS:
            self._receive_beat(Beat.decode(payload))
        else:
            self._receive(topic, payload)

    def _receive(self, topic: str, payload: bytes) -> None:
        try:
            message = decode(memoryview(payload)[ID_BYTES + 1 :])
        except msgspec.MsgspecError as error:
            log.warning("message_refused", topic=topic, error=str(error))
            return
        self._deliver(topic, message)

    def _receive_beat(self, beat: Beat) -> None:
        now = asyncio.get_running_loop().time()
        waited = self.connected and now - self._read_up_to > _MAX_UNREAD_AGE
        if self._publishers.receive(beat, self._read_up_to if waited else now):
            log.info("messages_missed", publisher=beat.publisher.hex(), losses=beat.losses)
            self._tell_missed_soon()

    def _tell_missed_soon(self) -> None:
        """Notify subscribers of missing messages, at most once in `MISSED_INTERVAL`."""
        loop = asyncio.get_running_loop()
        wait = self._missed_at + MISSED_INTERVAL - loop.time()
        if wait <= 0:
            self._missed_at = loop.time()
            self._tell_missed()
        elif self._missed_timer is None:
            self._missed_timer = loop.call_later(wait, self._missed_timer_ended)

    def _missed_timer_ended(self) -> None:
        self._missed_timer = None
        self._missed_at = asyncio.get_running_loop().time()
        self._tell_missed()

    def _tell_missed(self) -> None:
        """Notify every subscriber that messages may be missing."""
        for topic in list(self._topics):
            self._deliver(topic, MISSED)

    def _find_silent(self) -> None:
        """Notify subscribers of the last messages of dead publishers, which may be missing."""
        silent = self._publishers.find_silent(asyncio.get_running_loop().time())
        for publisher in silent:
            log.info("messages_missed", publisher=publisher.hex(), reason="it is silent")
        if silent:
            self._tell_missed()

    # --- subscriptions ---------------------------------------------------------------------

    def subscribe(self, topic: str, handler: Callable[[Any], None]) -> Subscription:
        """Call `handler` with each message of `topic`, also with those of other processes."""
        if topic not in self._topics:
            self._change("SUBSCRIBE", topic)
        return super().subscribe(topic, handler)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription, at the server with the last one of its topic."""
        super().remove(subscription)
        if subscription.topic not in self._topics:
            self._change("UNSUBSCRIBE", subscription.topic)

    def _change(self, command: str, topic: str) -> None:
        if self._serving:
            self._commands.put((command, self._prefix + topic))


async def _same(push: Any) -> Any:
    """Return a push unchanged: `_read` handles it."""
    return push


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
