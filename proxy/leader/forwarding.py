"""Passing requests and websockets on to the leader, unread.

While nobody leads, a request waits for a leader. What was not sent is sent to the next one, and so
is what changes nothing, and a submission, which carries the id that its job is to have: the next
leader answers for that job if it is stored. Anything else may have been carried out by a leader
that has ended, and is refused.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import quote

import aiohttp
import structlog
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from proxy.api import bodies
from proxy.api.requests import connection_of, site_of
from proxy.edge.addressing import (
    AGAIN,
    FORWARDING,
    ON_LOOPBACK,
    PROMPT_ID,
    SOCKET_AGE,
    STANDBY,
)
from proxy.leader.addresses import LeaderAddress
from proxy.leader.leadership import Leadership
from proxy.runtime import clock, randomness
from proxy.runtime.waits import stop
from proxy.sharing.budget import Allocation
from proxy.storage.leases import Lease
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Seconds for which a request waits for a leader, and for a connection to it.
LEADER_TIMEOUT, CONNECT_TIMEOUT = 15.0, 2.0
#: Seconds before another attempt to reach a leader.
_AGAIN = 0.05
#: The status by which a process says that it does not lead, and has not read the request.
NOT_LEADING = 421
#: The statuses of a client whose access may have ended between two leaders.
_DENIED = frozenset({401, 403})
#: Bytes that are read at once.
_PIECE = 64 * 1024
#: What a client is sent that waits to send its body (RFC 9110, section 10.1.1).
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Headers that are about one connection (RFC 9110, section 7.6.1), or that aiohttp writes.
_OF_CONNECTION = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "expect"),
    }
)
#: Methods that change nothing, and may be sent again.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_SUBMISSIONS = ("/prompt", "/api/prompt")

T = TypeVar("T", covariant=True)


class NotSentError(Exception):
    """Raised when the leader has read nothing of a request."""


class LeaderLostError(Exception):
    """Raised when a leader may have carried out a request before it ended."""


class Send(Protocol[T]):
    """Sends a request to the leader that has a lease."""

    async def __call__(self, lease: Lease, *, again: bool) -> T:
        """Return the answer; `again` says that another leader may have carried the request out.
        Raises `NotSentError` and `LeaderLostError`."""


async def to_leader(
    leadership: Leadership, send: Send[T], *, is_repeated: bool, despite_outage: bool = False
) -> T:
    """Return the answer of the leader to a request. While there is none, wait for one, if need be
    `despite_outage` of the database.

    What was not sent is sent to the next leader. What one may have carried out before it ended is
    sent again only if the request `is_repeated`. Raises `LocalError`.
    """
    ends, epoch = clock.monotonic() + LEADER_TIMEOUT, 0
    is_out = False  # whether the one of the lease that was read last does not answer
    while True:
        lease, left = None, ends - clock.monotonic()
        if left > 0 and not (is_out and leadership.is_unreadable and not despite_outage):
            lease = await leadership.known(left, after=epoch, despite_outage=despite_outage)
        if lease is None:
            raise _no_leader() if epoch == 0 else leader_lost()
        try:
            return await send(lease, again=epoch > 0)
        except NotSentError:
            is_out = True
            await asyncio.sleep(_AGAIN)
        except LeaderLostError:
            log.warning("leader_lost", epoch=lease.epoch)
            if not is_repeated:
                raise leader_lost() from None
            epoch = lease.epoch


@dataclass(eq=False, repr=False)
class Forwarding:
    """Passes requests on to the leader. `sign` proves to the leader of an epoch that they come from
    a standby.

    Headers that only trusted proxies may send are left out where the client is none: those of
    `FORWARDING`, and the `trusted_headers`. A submission has at most `max_bytes`.
    """

    leadership: Leadership
    sign: Callable[[int], str]
    trusted_headers: frozenset[str] = frozenset()
    max_bytes: int = 64 * 1024 * 1024
    admin: bool = False
    _session: aiohttp.ClientSession | None = field(init=False, default=None)

    async def start(self) -> None:
        """Open the session."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, use_dns_cache=False),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
            max_line_size=2**16,
            max_field_size=2**17,
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections to leaders."""
        if self._session is None:
            raise RuntimeError("the session is not open")
        return self._session

    # --- requests --------------------------------------------------------------------------

    async def request(self, request: web.Request) -> web.StreamResponse:
        """Pass a request on, and return the answer. Raises `LocalError`."""
        connection, headers, body = connection_of(request), self.headers(request), None

        async def send(lease: Lease, *, again: bool) -> web.StreamResponse:
            if again:
                headers[AGAIN] = "1"
            return await self._passed(request, lease, headers, body)

        with connection.context.budget.owner(connection.sender, "body") as memory:
            if request.method == "POST" and request.path.endswith(_SUBMISSIONS):
                body = await _read(request, self.max_bytes, memory)
                headers[PROMPT_ID] = str(randomness.uuid4())
            is_repeated = request.method in _SAFE or body is not None
            return await to_leader(self.leadership, send, is_repeated=is_repeated)

    async def _passed(
        self,
        request: web.Request,
        lease: Lease,
        headers: CIMultiDict[str],
        body: bytes | None,
    ) -> web.StreamResponse:
        """Send a request to a leader, and its answer to the client. Raises `NotSentError` and
        `LeaderLostError`."""
        async with self._asked(request, lease, headers, body) as found:
            if body is not None:
                check_access(found.status, again=AGAIN in headers)
            answer = web.StreamResponse(status=found.status, reason=found.reason)
            for name, value in found.headers.items():
                if name.lower() not in _OF_CONNECTION:
                    answer.headers.add(name, value)
            if connection_of(request).is_ending:
                answer.force_close()
            await answer.prepare(request)
            while request.method != "HEAD":
                try:
                    piece = await found.content.read(_PIECE)
                except aiohttp.ClientError:
                    log.warning("leader_lost", path=request.path, epoch=lease.epoch)
                    if request.transport is not None:
                        request.transport.abort()  # the client sees that the answer is cut off
                    return answer
                if not piece:
                    break
                await answer.write(piece)
            return answer

    @asynccontextmanager
    async def _asked(
        self,
        request: web.Request,
        lease: Lease,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        address = LeaderAddress.of(lease)
        data: io.BytesIO | AsyncIterator[bytes] | None = None
        if body is not None:
            data = io.BytesIO(body)
        elif request.body_exists:
            data = _body(request)
        asking = asyncio.ensure_future(
            self.session.request(
                request.method,
                self.url(address, request),
                headers={**headers, STANDBY: self.sign(lease.epoch)},
                data=data,
                allow_redirects=False,
                expect100=data is not None,
                ssl=address.ssl,
            )
        )
        gone = asyncio.ensure_future(self.leadership.superseded(lease.epoch))
        try:
            await asyncio.wait({asking, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise LeaderLostError
            try:
                response = asking.result()
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                raise NotSentError from error
            except (aiohttp.ClientError, OSError) as error:
                raise LeaderLostError from error
            async with response:
                if response.status == NOT_LEADING:
                    raise NotSentError
                yield response
        finally:
            await stop(asking, gone)

    def url(self, address: LeaderAddress, request: web.Request) -> URL:
        """Return where the leader has what a request asks for."""
        base = address.admin_url if self.admin else address.url
        target, prefix = request.raw_path, connection_of(request).prefix
        if not target.startswith("/"):
            target = request.rel_url.raw_path_qs
        if prefix.query_tokens:  # a listener of a leader has removed the tokens
            joint = "&" if "?" in target else "?"
            target += joint + "&".join(f"token={quote(token)}" for token in prefix.query_tokens)
        if prefix.path_token is not None:
            target = f"/t/{prefix.path_token}" + (target[1:] if prefix.bare else target)
        return URL(f"{base}{target}", encoded=True)

    def headers(self, request: web.Request) -> CIMultiDict[str]:
        """Return the headers of a request as the leader gets them, with who its client is."""
        connection, site = connection_of(request), site_of(request)
        left_out = _OF_CONNECTION
        if not connection.peer.proxies:
            left_out = left_out | FORWARDING | self.trusted_headers
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in left_out
        )
        for name in (STANDBY, ON_LOOPBACK, PROMPT_ID, AGAIN, SOCKET_AGE):
            headers.popall(name, None)
        headers["X-Forwarded-For"] = connection.address
        headers["X-Forwarded-Proto"], headers["X-Forwarded-Host"] = site
        if connection.on_loopback:
            headers[ON_LOOPBACK] = "1"
        return headers


async def _body(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body of a request in pieces, for which its client may wait to be asked."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0  # it is no part of the answer
    async for piece in request.content.iter_any():
        yield piece


async def _read(request: web.Request, max_bytes: int, memory: Allocation) -> bytes:
    """Return the body of a request, within the memory of its client. Raises `LocalError`."""
    body = bytearray()
    async for piece in _body(request):
        memory.grow(len(piece))
        body += piece
        if len(body) > max_bytes:
            raise LocalError(
                "json_too_large",
                f"The request body has more than {max_bytes // 2**20} MiB of JSON; upload pictures "
                "as files.",
                kind="too_large",
            )
    return bytes(body)


def _no_leader() -> LocalError:
    """Return the refusal of a request for which there was no leader in time."""
    return LocalError(
        "no_leader",
        "No process of this gateway leads now, so that the request was not carried out; send it "
        "again.",
        kind="unavailable",
        retry_after=5.0,
    )


def leader_lost() -> LocalError:
    """Return the refusal of a request that may have been carried out."""
    return LocalError(
        "leader_lost",
        "The process that was to answer has ended, and may have carried the request out; look "
        "before you send it again.",
        kind="unconfirmed",
        retry_after=5.0,
    )


def check_access(status: int, *, again: bool) -> None:
    """Check the status of a submission. Raises `LocalError` if its client has no access and it was
    sent `again`: the job may run that an earlier leader has stored."""
    if again and status in _DENIED:
        raise leader_lost()


def not_leading() -> web.Response:
    """Return the answer to a standby that takes this process for the leader."""
    answer = bodies.empty(NOT_LEADING)
    answer.force_close()
    return answer
