"""Stands before a connection: sees how slow the client is, and whether an answer is under way.

aiohttp bounds the size of a request but not the time that a client takes for it. A `Guard` lies
between a connection's transport and aiohttp's protocol and sees every byte go by; the middleware
tells it where a request begins, and the server's access log where its answer has gone out.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, cast

import structlog
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractAccessLogger

from proxy.translate import codec
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Bytes of a body that have to arrive within `Limits.body_timeout`, unless fewer are left.
LEAST_PROGRESS = 16 * 1024
#: Seconds in which a refused client has to say what it wanted.
REFUSAL_PATIENCE = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for connections. Times are seconds, 0 is no bound.

    `header_timeout` runs from the first byte of a request to the end of its headers;
    `body_timeout` is that in which a part of the body has to arrive. `header_bytes` bounds each
    header and the request line.
    """

    max_connections: int = 20_000
    header_timeout: float = 20.0
    body_timeout: float = 60.0
    header_bytes: int = 16 * 1024


class Entry(Enum):
    """What becomes of a new connection."""

    WELCOME = auto()
    REFUSED = auto()
    CUT = auto()


class Watch(Protocol):
    """Who looks after all guards."""

    def now(self) -> float:
        """Seconds of a clock that never jumps."""

    def take_in(self, guard: Guard) -> Entry:
        """Count a new connection, and say what becomes of it."""

    def changed(self, guard: Guard, *, timed: bool) -> None:
        """A connection is in another state; a `timed` one wants a `check` now and then."""

    def forget(self, guard: Guard, *, refused: bool) -> None:
        """A connection is gone."""


class _State(Enum):
    IDLE = auto()
    REFUSED = auto()
    HEADERS = auto()
    BODY = auto()
    ANSWER = auto()
    REST = auto()  # the answer has gone out before the whole body had come
    SOCKET = auto()


_TIMED = (_State.REFUSED, _State.HEADERS, _State.BODY)
_AT_WORK = (_State.BODY, _State.ANSWER)


class Guard(asyncio.Protocol):
    """One connection, and aiohttp's `inner` protocol behind it."""

    def __init__(self, watch: Watch, inner: asyncio.Protocol) -> None:
        self.cancelled = False
        self._watch = watch
        self._inner = inner
        self._state = _State.IDLE
        self._transport: asyncio.Transport | None = None
        self._since = 0.0
        self._count = 0
        self._body: StreamReader | None = None
        self._task: asyncio.Task[object] | None = None

    @property
    def busy(self) -> bool:
        """Whether an answer is being made or sent."""
        return self._state in _AT_WORK

    # --- what the server tells -------------------------------------------------------------

    @contextlib.contextmanager
    def handling(self, request: web.Request) -> Iterator[None]:
        """The request's headers have come and its handler runs in the block."""
        self._body = request.content
        self._since, self._count = self._watch.now(), 0
        self._enter(_State.ANSWER if request.content.is_eof() else _State.BODY)
        self._task = asyncio.current_task()
        try:
            yield
        finally:
            self._task = None

    def answered(self) -> None:
        """The answer has gone out."""
        if self._state in _AT_WORK:
            whole = self._body is None or self._body.is_eof()
            self._enter(_State.IDLE if whole else _State.REST)

    def upgraded(self) -> None:
        """The connection is a websocket, which may be silent."""
        self._enter(_State.SOCKET)

    # --- what the watch does ---------------------------------------------------------------

    def check(self, now: float, limits: Limits) -> None:
        """End what is too slow."""
        match self._state:
            case _State.REFUSED if now - self._since >= REFUSAL_PATIENCE:
                self.close()
            case _State.HEADERS if 0 < limits.header_timeout <= now - self._since:
                log.info("headers_too_slow")
                self.close()
            case _State.BODY:
                self._check_body(now, limits.body_timeout)

    def _check_body(self, now: float, patience: float) -> None:
        body, transport = self._body, self._transport
        if body is None or transport is None or body.is_eof():
            self._enter(_State.ANSWER)
        elif 0 < patience <= now - self._since:
            if self._count >= LEAST_PROGRESS or not transport.is_reading():
                self._since, self._count = now, 0
                return
            log.info("body_too_slow", received=self._count)
            self._enter(_State.ANSWER)
            body.set_exception(
                LocalError(
                    408,
                    "request_timeout",
                    "The request body came too slowly; send it again over a faster connection, "
                    "or raise the setting `body_timeout`.",
                )
            )

    def cancel(self) -> None:
        """Cancel the handler; the middleware answers in its place."""
        if self._task is not None and not self.cancelled:
            self.cancelled = True
            self._task.cancel()

    def close_unless_busy(self) -> None:
        """Close the connection if nothing is under way that a client waits for."""
        if self._state not in (*_AT_WORK, _State.SOCKET):
            self.close()

    def close(self) -> None:
        """Close the connection; what was written before is still sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _enter(self, state: _State) -> None:
        self._state = state
        self._watch.changed(self, timed=state in _TIMED)

    # --- the connection --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let the connection in, or refuse it."""
        self._transport = cast("asyncio.Transport", transport)
        entry = self._watch.take_in(self)
        if entry is Entry.WELCOME:
            self._inner.connection_made(transport)
            return
        self._since = self._watch.now()
        self._enter(_State.REFUSED)
        if entry is Entry.CUT:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Pass the bytes on, or tell a refused client why."""
        match self._state:
            case _State.IDLE:
                self._since = self._watch.now()
                self._enter(_State.HEADERS)
            case _State.BODY:
                self._count += len(data)
            case _State.REFUSED:
                if self._transport is not None:
                    self._transport.write(_CROWDED)
                    self._transport.close()
                return
        self._inner.data_received(data)
        if self._state is _State.REST and (self._body is None or self._body.is_eof()):
            self._enter(_State.IDLE)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return None if self._state is _State.REFUSED else self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        if self._state is not _State.REFUSED:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._state is not _State.REFUSED:
            self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        refused = self._state is _State.REFUSED
        self._transport = self._body = None
        self._watch.forget(self, refused=refused)
        if not refused:
            self._inner.connection_lost(exc)


def guard_of(request: web.BaseRequest) -> Guard | None:
    """The guard of the request's connection, if it has one."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Guard) else None


class AnswerLog(AbstractAccessLogger):
    """Not a log: aiohttp's access log is the one place that knows when an answer has gone out."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Tell the guard."""
        guard = guard_of(request)
        if guard is not None:
            guard.answered()


def _crowded() -> bytes:
    """The whole answer to a client too many."""
    error = LocalError(
        503,
        "too_many_connections",
        "The proxy has as many connections as the setting `max_connections` allows; close some "
        "and try again.",
    )
    body = codec.dump_bytes(error.body())
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


_CROWDED = _crowded()
