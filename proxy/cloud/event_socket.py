"""The websocket of an account, on which the cloud sends the events of all its jobs.

Events arrive whatever the `clientId`. There is no replay: what is sent while the socket is closed
is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import aiohttp
import msgspec
import structlog

from proxy.cloud.connections import (
    CONNECT_TIMEOUT,
    CONNECTION_ERRORS,
    CloudAddresses,
    Connections,
)
from proxy.cloud.observations import AccountObservations
from proxy.cloud.observer import Observer
from proxy.cloud.rejections import Rejections
from proxy.cloud.resilience import CircuitBreaker, RetryPolicy, retry_after
from proxy.logging import FailureLines, public_word
from proxy.runtime import clock, randomness
from proxy.runtime.backoff import Backoff, jittered
from proxy.runtime.waits import stop, until_set
from proxy.translate import codec
from proxy.translate.codec import redact
from proxy.translate.events import LISTED_EVENTS, unlisted
from proxy.translate.frames import LISTED_FRAMES, parse_frame, without_secret

log = structlog.get_logger(__name__)

#: The first message, as of the cloud's own web app.
_FLAGS = codec.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})

#: Maximum bytes of a message: a frame may be a picture that a job sends as its result.
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024

#: Maximum characters and values of an event. The job's detail has what a larger one says.
_MAX_TEXT, _MAX_VALUES = 16 * 1024 * 1024, 100_000

#: Statuses of a handshake that another attempt will not change.
_KEY_REFUSED = (401, 403)

#: Seconds that a connection must last for the delay before the next attempt to start again.
_MIN_STABLE = 5.0

#: Seconds for the close frame of the cloud, however much it sends before.
_CLOSE_TIMEOUT = 1.0

#: Messages that the cloud sends on every new connection, even on one that stalls.
_GREETINGS = frozenset({"status", "feature_flags"})


class _Event(msgspec.Struct):
    """A text message of the cloud."""

    type: str
    data: dict[str, Any] | None = None


class IdleWatchdog:
    """Decides when a socket has been silent for too long while messages are due.

    Pure: `now` is a monotonic clock in seconds. The limit is `first` seconds; it doubles with each
    connection that is given up, up to `longest`, until a message comes that is not a greeting. A
    node may run for long without a message, and each new connection may miss an event.
    """

    def __init__(self, *, first: float = 15.0, longest: float = 120.0) -> None:
        self.first = first
        self._longest = longest
        self._limit = first
        self._since = 0.0

    def begin(self, now: float) -> None:
        """Count from now: the connection has been opened, or nothing is due on it."""
        self._since = now

    def received(self, now: float, type_: str) -> None:
        """Count from now: a message came. `type_` is empty for a binary one."""
        self._since = now
        if type_ not in _GREETINGS:
            self._limit = self.first

    def is_over(self, now: float) -> bool:
        """Return whether to give the connection up; the next may be silent for twice as long."""
        if now - self._since < self._limit:
            return False
        self._limit = min(self._limit * 2, self._longest)
        return True


class Timeouts(msgspec.Struct, frozen=True):
    """Timeouts and retries of the connections to the cloud, in seconds.

    `heartbeat`, `watchdog` and `socket_backoff` are those of event sockets. A submission waits up
    to `socket_timeout` for the event socket and up to `catalog_timeout` for the catalog. Key files
    are read every `key_interval`; an answer about readiness is at most `ready_age` old.
    """

    retries: RetryPolicy = msgspec.field(default_factory=RetryPolicy)
    breaker: Callable[[], CircuitBreaker] = CircuitBreaker
    heartbeat: float = 20.0
    watchdog: Callable[[], IdleWatchdog] = IdleWatchdog
    socket_backoff: Backoff = msgspec.field(default_factory=lambda: Backoff(0.5, 30.0))
    socket_timeout: float = 3.0
    catalog_timeout: float = 10.0
    key_interval: float = 2.0
    ready_age: float = 3.0


@dataclass(eq=False, repr=False)
class EventSocket:
    """The event socket of one account.

    The `observer` gets text messages, and binary ones of a known type, both without the key. Its
    `on_up` is called after each opening, `on_down` after each loss but not after `close`. What it
    raises is logged.

    A ping is sent after `heartbeat` seconds of silence; without an answer within half of that the
    socket is closed. So is a socket without a message while `due()` returns true, as the `watchdog`
    decides. After a refused key the next attempt comes after the longest `socket_backoff`.

    `observations` gets the messages that no document lists. A connection that floods is given up.
    `recovery` returns what is set when the cloud answers calls again: that ends a delay.

    `connected` is whether the socket is open, as far as is known; `refused` is the HTTP status that
    refused the last handshake (401: the key does not work), or `None`.
    """

    addresses: CloudAddresses
    key: str
    observer: Observer
    _: KW_ONLY
    timeouts: Timeouts = field(default_factory=Timeouts)
    observations: AccountObservations = field(default_factory=AccountObservations)
    recovery: Callable[[], asyncio.Event] = asyncio.Event

    def __post_init__(self) -> None:
        redirects = aiohttp.TraceConfig()
        redirects.on_request_redirect.append(_refuse_redirect)
        self._connections = Connections(self.addresses.check_cloud, trace_configs=[redirects])
        self._watchdog = self.timeouts.watchdog()
        self._rejections = Rejections()
        self._client_id = str(randomness.uuid4())
        self._task: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        #: Set when it is open, and while nobody need wait for that.
        self._decided = asyncio.Event()
        self._lines = FailureLines()
        self.connected = False
        self.refused: int | None = None

    async def start(self) -> None:
        """Start to keep the socket open, without waiting for it. May follow a `close`."""
        if self._task is None:
            self._decided.clear()
            await self._connections.start()
            self._task = asyncio.create_task(self._driven(), name="cloud event socket")

    async def wait_connected(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the socket is open. Return whether it is.

        A refused key ends the wait: the next attempt comes much later. After a wait in vain nobody
        waits until the socket has been open, or has another key.
        """
        if not await until_set(self._decided, timeout):
            self._decided.set()
        return self.connected

    def follow(self, cloud_id: str, graph: Mapping[str, Any]) -> None:
        """Do nothing: the socket carries the events of all jobs."""

    def leave(self, cloud_id: str) -> None:
        """Do nothing, as `follow`."""

    async def use_key(self, key: str) -> None:
        """Close the connection, or end the delay before the next, and open one with another key."""
        self.key = key
        async with self._changing:
            if self._task is None:
                return
            was_connected = self.connected
            await self._stop()
            if was_connected:
                log.warning("event_socket_lost", code=int(aiohttp.WSCloseCode.OK))
                self._call(self.observer.on_down)
            await self.start()

    async def close(self) -> None:
        """Close the socket, within a second."""
        async with self._changing:  # another key may be opening it anew
            await self._stop()

    async def _stop(self) -> None:
        if self._task is not None:
            await stop(self._task)
            await self._connections.close()
            self._task = None

    async def _driven(self) -> None:
        await self.observer.driver.drive(self._run())

    async def _run(self) -> None:
        failures = 0
        while True:
            opened, recovery = clock.monotonic(), self.recovery()
            try:
                wait = await self._connect_and_listen()
            except Exception:
                log.exception("event_socket_failed")
                wait = 0.0
            failures = 1 if clock.monotonic() - opened >= _MIN_STABLE else failures + 1
            backoff = self.timeouts.socket_backoff
            pause = max(wait, jittered(backoff.first))
            await asyncio.sleep(pause)
            await until_set(recovery, backoff.after(failures) - pause)

    async def _connect_and_listen(self) -> float:
        """Open a connection and receive until it ends. Return the minimum seconds to wait after
        it."""
        socket = await self._connect()
        if not isinstance(socket, aiohttp.ClientWebSocketResponse):
            return socket
        self.refused = None
        try:
            self.connected = True
            self._decided.set()
            self._lines.ended("event_socket_failed")
            self._lines.ended("event_socket_refused")
            log.info("event_socket_opened")
            self._call(self.observer.on_up)
            await self._listen(socket)
        except Exception:
            log.exception("event_socket_failed")
        finally:
            self.connected = False
            self._decided.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await socket.close()
        log.warning("event_socket_lost", code=socket.close_code)
        self._call(self.observer.on_down)
        return 0.0

    async def _connect(self) -> aiohttp.ClientWebSocketResponse | float:
        """Return an open connection, or the minimum seconds to wait after a failure."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                return await self._open()
        except aiohttp.WSServerHandshakeError as error:
            return self._handshake_refused(error)
        except CONNECTION_ERRORS as error:
            self.refused = None
            if (more := self._lines.due("event_socket_failed")) is not None:
                log.warning("event_socket_failed", error=type(error).__name__, **more)
            return 0.0

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        url = (self.addresses.base_url / "ws").with_query(clientId=self._client_id, token=self.key)
        session, proxy = self._connections.choose(url)
        socket = await session.ws_connect(
            url,
            heartbeat=self.timeouts.heartbeat,
            compress=0,
            max_msg_size=_MAX_MESSAGE_BYTES,
            timeout=aiohttp.ClientWSTimeout(ws_close=0.5),
            proxy=proxy,
        )
        try:
            await socket.send_str(_FLAGS)
        except BaseException:
            await socket.close()
            raise
        return socket

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Receive until the connection ends or has been silent for too long."""
        self._watchdog.begin(clock.monotonic())
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(socket), name="cloud event socket's watchdog")
            self._rejections = Rejections()
            async for message in socket:
                if message.type is aiohttp.WSMsgType.ERROR:
                    break
                await self.observer.driver.give_way()  # many may have come at once
                try:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        self._text(message.data)
                    else:
                        self._frame(message.data)
                except Exception:
                    log.exception("event_socket_callback_failed")
                if self._rejections.too_many:
                    log.warning("event_socket_flooded")
                    await self._cut()
                    break
            watch.cancel()

    async def _cut(self) -> None:
        """End the connection at once: its close frame would come after all that it has sent."""
        await self._connections.close()
        await self._connections.start()

    async def _watch(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await asyncio.sleep(self._watchdog.first / 4)
            if not self.observer.due():
                self._watchdog.begin(clock.monotonic())
            elif self._watchdog.is_over(clock.monotonic()):
                log.warning("event_socket_stalled")
                await socket.close()
                return

    def _frame(self, data: bytes) -> None:
        self._watchdog.received(clock.monotonic(), "")
        if data[:4] not in LISTED_FRAMES:
            kind = int.from_bytes(data[:4])
            self.observations.add_anomaly("frame", f"type {kind}", data)
            self._rejections.count(clock.monotonic())
            return
        if (shown := without_secret(data, self.key) if self.key else data) is None:
            if count := self._rejections.count(clock.monotonic()):
                log.warning("frame_rejected", length=len(data), count=count)
            return
        if (frame := parse_frame(shown)) is not None:
            self.observer.on_frame(frame)

    def _text(self, text: str) -> None:
        if len(text) > _MAX_TEXT or codec.breadth(text) > _MAX_VALUES:
            self._watchdog.received(clock.monotonic(), "")
            self._reject(text, "too large")
            return
        message: Any = None
        try:
            message = codec.loads_text(text)
            event = msgspec.convert(message, _Event)
        except ValueError:
            self._reject(text, "not an event", message)
            return
        type_, data = event.type, event.data or {}
        self._watchdog.received(clock.monotonic(), type_)
        fields = LISTED_EVENTS.get(type_)
        if (fields is None or not fields <= data.keys()) and (odd := unlisted(type_, data)):
            self.observations.add_anomaly("event", f"{public_word(type_)}: {odd}", data)
        if codec.may_show(text, self.key):
            type_, data = redact(type_, self.key), redact(data, self.key)
        self.observer.on_event(type_, data)

    def _reject(self, text: str, why: str, example: object = None) -> None:
        if count := self._rejections.count(clock.monotonic()):
            log.warning("event_rejected", length=len(text), count=count)
        self.observations.add_anomaly("event", why, example)

    def _handshake_refused(self, error: aiohttp.WSServerHandshakeError) -> float:
        self.refused = error.status
        if (more := self._lines.due("event_socket_refused")) is not None:
            log.warning("event_socket_refused", status=error.status, **more)
        if error.status in _KEY_REFUSED:
            self._decided.set()
            return jittered(self.timeouts.socket_backoff.longest)
        named = error.headers.get("Retry-After") if error.headers is not None else None
        return retry_after(named, clock.time()) or 0.0

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception:
            log.exception("event_socket_callback_failed")


async def _refuse_redirect(
    _: object, __: object, redirect: aiohttp.TraceRequestRedirectParams
) -> None:
    """Refuse a redirect, which would take the token in the query along."""
    redirect.response.close()
    raise aiohttp.ClientConnectionError("redirected")
