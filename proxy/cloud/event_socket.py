"""The account's event socket: opened, watched, and opened again.

Everything that happens to any job of the account arrives on it, whatever its `clientId`. There is
no replay: what is sent while it is down is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import structlog
from yarl import URL

from proxy.cloud.http import CONNECT_TIMEOUT, CloudAddresses, Connections
from proxy.cloud.resilience import Backoff, CircuitBreaker, RetryPolicy, jittered, retry_after
from proxy.logging import word
from proxy.observations import AccountObservations
from proxy.translate import codec
from proxy.translate.codec import redact
from proxy.translate.events import LISTED_EVENTS, unlisted
from proxy.translate.frames import LISTED_FRAMES, without_secret

log = structlog.get_logger(__name__)

#: Sent first, as the cloud's own web app does.
_FLAGS = codec.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})

#: Bytes of a message: a frame may be a picture that a job sends as its result.
_MAX_MESSAGE = 64 * 1024 * 1024

#: Characters and values of an event. What a larger one tells is in the job's detail.
_MAX_TEXT, _MAX_VALUES = 16 * 1024 * 1024, 100_000

#: Statuses of a handshake that another try will not change.
_KEY_REFUSED = (401, 403)

#: The waits between two tries grow until a connection has lasted for this many seconds.
_STEADY = 5.0

#: What the cloud sends to every new connection, stalled later or not.
_GREETINGS = frozenset({"status", "feature_flags"})


class _Event(msgspec.Struct):
    """A text message of the cloud."""

    type: str
    data: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_Event)


class IdleWatchdog:
    """How long a socket may be silent while messages are due.

    Pure: `now` is any clock in seconds that does not run backwards. The first time it is `first`
    seconds, then twice as long each time, at most `longest`, until a message has come that is
    more than a greeting: a node may take long to say something, and each new connection may miss
    an event.
    """

    def __init__(self, *, first: float = 15.0, longest: float = 120.0) -> None:
        self.first = first
        self._longest = longest
        self._bound = first
        self._since = 0.0

    def begin(self, now: float) -> None:
        """A connection has been opened, or nothing is due on it: count from now on."""
        self._since = now

    def heard(self, now: float, type_: str) -> None:
        """A message came; `type_` is that of a text, anything for others."""
        self._since = now
        if type_ not in _GREETINGS:
            self._bound = self.first

    def is_over(self, now: float) -> bool:
        """Whether to give the connection up; the next may be silent for longer."""
        if now - self._since < self._bound:
            return False
        self._bound = min(self._bound * 2, self._longest)
        return True


class Timeouts(msgspec.Struct, frozen=True):
    """How soon trouble with the cloud is noticed and things are tried again.

    Times are seconds. `heartbeat`, `watchdog` and `socket_backoff` are the event sockets', for
    which a submission waits up to `socket_timeout`; the keys' files are looked at every
    `key_interval`; an answer about readiness is at most `ready_age` old.
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
    """One event socket for one account. The callbacks are plain functions and must not block.

    `on_event(type, data)` gets text messages, `on_frame(frame)` binary ones of a known type, both
    without the key; `on_up()` comes after each opening, `on_down()` after each loss but not after
    `close`. An exception in a callback is logged and goes no further.

    After a `heartbeat` of silence a ping is sent; half of that later without an answer the socket
    is given up. One that answers pings but brings no message while `due()` says that some should
    come is given up as the `watchdog` has it. A refused key waits the longest `socket_backoff`.

    What no document lists is told to `observations`.

    `connected` says whether the socket is open, as far as anyone can know; `refused` is the HTTP
    status that refused the last handshake (401: the key does not work), `None` if none did.
    """

    base_url: URL
    key: str
    _: KW_ONLY
    on_event: Callable[[str, dict[str, Any]], None]
    on_frame: Callable[[bytes], None]
    on_up: Callable[[], None]
    on_down: Callable[[], None]
    due: Callable[[], bool] = lambda: False
    timeouts: Timeouts = field(default_factory=Timeouts)
    plain_http: bool = False
    observations: AccountObservations = field(default_factory=AccountObservations)

    def __post_init__(self) -> None:
        redirects = aiohttp.TraceConfig()
        redirects.on_request_redirect.append(_refuse_redirect)
        addresses = CloudAddresses(self.base_url, plain_http=self.plain_http)
        self._connections = Connections(addresses.check_cloud, trace_configs=[redirects])
        self._watchdog = self.timeouts.watchdog()
        self._client_id = str(uuid4())
        self._task: asyncio.Task[None] | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._decided = asyncio.Event()
        self._hurry = asyncio.Event()
        self.connected = False
        self.refused: int | None = None

    async def start(self) -> None:
        """Begin to keep the socket open; returns before it is. May follow a `close`."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="cloud event socket")

    async def wait_connected(self, timeout: float) -> bool:
        """Wait until the socket is open, at most `timeout` seconds. Says whether it is.

        A refused key ends the wait: the next handshake is far off.
        """
        if not self._decided.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._decided.wait()
        return self.connected

    async def reopen(self) -> None:
        """Give up the connection, or the wait for one, and open a new one at once."""
        self._hurry.set()
        if self._socket is not None:
            await self._socket.close()

    async def use_key(self, key: str) -> None:
        """Reopen with another key."""
        self.key = key
        if not self.connected:
            self._decided.clear()
        await self.reopen()

    async def close(self) -> None:
        """Close the socket for good, within a second."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        failures = 0
        await self._connections.start()
        try:
            while True:
                opened = time.monotonic()
                try:
                    wait = await self._connection()
                except Exception:
                    log.exception("event_socket_failed")
                    wait = 0.0
                failures = 1 if time.monotonic() - opened >= _STEADY else failures + 1
                wait = max(wait, self.timeouts.socket_backoff.after(failures))
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._hurry.wait()
                self._hurry.clear()
        finally:
            await self._connections.close()

    async def _connection(self) -> float:
        """Live through one connection; the least number of seconds to wait behind it."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                self._socket = await self._open()
        except aiohttp.WSServerHandshakeError as error:
            return self._handshake_refused(error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.refused = None
            self._decided.clear()
            log.warning("event_socket_failed", error=type(error).__name__)
            return 0.0
        socket = self._socket
        self.refused = None
        try:
            if self._hurry.is_set():
                return 0.0
            self.connected = True
            self._decided.set()
            log.info("event_socket_opened")
            self._tell(self.on_up)
            await self._listen(socket)
        except Exception:
            log.exception("event_socket_failed")
        finally:
            self.connected = False
            self._decided.clear()
            self._socket = None
            await socket.close()
        log.warning("event_socket_lost", code=socket.close_code)
        self._tell(self.on_down)
        return 0.0

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        url = (self.base_url / "ws").with_query(clientId=self._client_id, token=self.key)
        session, proxy = self._connections.choose(url)
        socket = await session.ws_connect(
            url,
            heartbeat=self.timeouts.heartbeat,
            compress=0,
            max_msg_size=_MAX_MESSAGE,
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
        self._watchdog.begin(time.monotonic())
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(socket), name="cloud event socket's watchdog")
            await self._receive(socket)
            watch.cancel()

    async def _watch(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await asyncio.sleep(self._watchdog.first / 4)
            if not self.due():
                self._watchdog.begin(time.monotonic())
            elif self._watchdog.is_over(time.monotonic()):
                log.warning("event_socket_stalled")
                await socket.close()
                return

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.ERROR:
                break
            if message.type is aiohttp.WSMsgType.TEXT:
                self._text(message.data)
            else:
                self._frame(message.data)

    def _frame(self, data: bytes) -> None:
        self._watchdog.heard(time.monotonic(), "")
        if data[:4] not in LISTED_FRAMES:
            kind = int.from_bytes(data[:4])
            self.observations.surprise("frame", f"type {kind}", data)
            return
        if (shown := without_secret(data, self.key) if self.key else data) is None:
            log.warning("frame_rejected", length=len(data))
            return
        self._tell(self.on_frame, shown)

    def _text(self, text: str) -> None:
        if len(text) > _MAX_TEXT or codec.breadth(text) > _MAX_VALUES:
            self._watchdog.heard(time.monotonic(), "")
            log.warning("event_rejected", length=len(text))
            self.observations.surprise("event", "too large")
            return
        try:
            event = _decoder.decode(text)
        except (ValueError, RecursionError):  # perhaps what strict JSON has not: NaN, half a letter
            message: Any = None
            try:
                message = codec.loads_text(text)
                event = msgspec.convert(message, _Event)
            except ValueError:
                log.warning("event_rejected", length=len(text))
                self.observations.surprise("event", "not an event", message)
                return
        type_, data = event.type, event.data or {}
        self._watchdog.heard(time.monotonic(), type_)
        fields = LISTED_EVENTS.get(type_)
        if (fields is None or not fields <= data.keys()) and (odd := unlisted(type_, data)):
            self.observations.surprise("event", f"{word(type_)}: {odd}", data)
        if codec.may_show(text, self.key):
            type_, data = redact(type_, self.key), redact(data, self.key)
        self._tell(self.on_event, type_, data)

    def _handshake_refused(self, error: aiohttp.WSServerHandshakeError) -> float:
        self.refused = error.status
        log.warning("event_socket_refused", status=error.status)
        if error.status in _KEY_REFUSED:
            self._decided.set()
            return jittered(self.timeouts.socket_backoff.longest)
        self._decided.clear()
        named = error.headers.get("Retry-After") if error.headers is not None else None
        return retry_after(named, time.time()) or 0.0

    def _tell(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            callback(*arguments)
        except Exception:
            log.exception("event_socket_callback_failed")


async def _refuse_redirect(
    _: object, __: object, redirect: aiohttp.TraceRequestRedirectParams
) -> None:
    """A redirect would carry the token of the query along."""
    redirect.response.close()
    raise aiohttp.ClientConnectionError("redirected")
