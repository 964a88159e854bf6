"""One HTTP request to Comfy Cloud: the key on it, its errors told apart, reads repeated."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from types import SimpleNamespace
from typing import Any, Literal, TypeVar
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import aiohttp
import stamina
from yarl import URL

from proxy import __version__
from proxy.cloud.calls import route_of
from proxy.cloud.errors import (
    CloudGarbage,
    CloudRefused,
    CloudUnreachable,
    refusal,
    retry_after,
)
from proxy.cloud.restraint import Restraint
from proxy.cloud.waits import Patience
from proxy.metrics import CloudCalls
from proxy.translate import codec
from proxy.translate.redact import redact

#: Seconds for a TCP and TLS connection to come about.
CONNECT_TIMEOUT = 10.0

Body = Callable[[], AbstractAsyncContextManager[Any]]

T = TypeVar("T")

#: From where an address can be reached; what is further down the list is the more local.
Reach = Literal["public", "private", "loopback"]
_REACHES: tuple[Reach, ...] = ("public", "private", "loopback")

#: IPv4 addresses as NAT64 writes them (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer below 300. `attempts` counts the requests that it took."""

    call: str
    body: bytes = field(repr=False)
    content_type: str
    attempts: int
    key: str = field(repr=False)

    def json(self) -> Any:
        """The parsed body, in which the account's key is redacted. Raises `CloudGarbage`."""
        try:
            value = codec.loads_text(self.body)
        except ValueError:
            raise CloudGarbage(f"{self.call}: the answer is not JSON") from None
        return redact(value, self.key) if self.key and self.key.encode() in self.body else value

    def object(self) -> dict[str, Any]:
        """The body as a JSON object. Raises `CloudGarbage`."""
        value = self.json()
        if not isinstance(value, dict):
            raise CloudGarbage(f"{self.call}: the answer is not a JSON object")
        return value


class AddressRefusedError(OSError):
    """An address that is not connected to; the text says why."""


def reach_of(address: str) -> Reach:
    """How local an IP address is. What routers must not pass on counts as loopback."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = ip if inner is None else inner
    if ip.is_loopback or ip.is_unspecified or ip.is_link_local or ip.is_multicast:
        return "loopback"
    return "public" if ip.is_global else "private"


class Connections:
    """Sessions with one kind of peer: direct ones, and through the environment's HTTP proxy.

    `check` is given each IP address right before it is connected to, whatever name it was found
    by, and raises `AddressRefusedError`. Behind a proxy only an address in the URL itself is
    checked: names are looked up by the proxy.
    """

    def __init__(self, check: Callable[[str], None], **options: Any) -> None:
        self._check = check
        self._options = options
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the sessions; connections come when they are needed."""
        checked = aiohttp.TCPConnector(socket_factory=self._socket)
        self._direct = _bare_session(connector=checked, **self._options)
        self._proxied = _bare_session(**self._options)

    async def close(self) -> None:
        """Close all connections."""
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()
        self._direct = self._proxied = None

    def choose(self, url: URL) -> tuple[aiohttp.ClientSession, URL | None]:
        """The session for a URL, and the proxy on the way. Raises `AddressRefusedError`."""
        if self._direct is None or self._proxied is None:
            raise RuntimeError("the cloud client is not started")
        proxy = outward_proxy(url)
        if proxy is None:
            return self._direct, None
        with suppress(ValueError):
            self._check(str(ip_address(url.host or "")))
        return self._proxied, proxy

    def _socket(self, about: Any) -> socket.socket:
        family, type_, proto, _, address = about
        self._check(str(address[0]))
        return socket.socket(family=family, type=type_, proto=proto)


class CloudAddresses:
    """Which addresses the cloud may have, and whereto it may send downloads.

    Over plain http the key goes to loopback and private addresses alone, unless `plain_http`.
    `reach` is the cloud's own, the widest that was seen: a cloud of the public network must not
    send us into our own one.
    """

    def __init__(self, base_url: URL, *, plain_http: bool) -> None:
        self._refuses_public = base_url.scheme == "http" and not plain_http
        self.reach: Reach | None = None

    def check_cloud(self, address: str) -> None:
        """Raise `AddressRefusedError` if the key is not to be sent there."""
        reach = reach_of(address)
        if self._refuses_public and reach == "public":
            raise AddressRefusedError(
                "the API key is not sent to a public address over plain http: set base_url to an "
                "https address, or allow_plain_http"
            )
        self.reach = min(reach, self.reach or reach, key=_REACHES.index)

    def check_storage(self, address: str) -> None:
        """Raise `AddressRefusedError` for an address that is more local than the cloud's."""
        if _REACHES.index(reach_of(address)) > _REACHES.index(self.reach or "public"):
            raise AddressRefusedError("a redirect into the network of the proxy")


class Http:
    """The session with the cloud's host. `timeout` is in seconds for each attempt.

    `calls` counts what goes out; `addresses` are those that it may go to.
    """

    def __init__(
        self,
        base_url: URL,
        key: str,
        *,
        timeout: float,
        patience: Patience,
        restraint: Restraint,
        calls: CloudCalls,
        plain_http: bool = False,
    ) -> None:
        self.base_url = base_url
        self.addresses = CloudAddresses(base_url, plain_http=plain_http)
        self.key = key
        self.timeout = timeout
        self.patience = patience
        self.calls = calls
        self._restraint = restraint
        marks = aiohttp.TraceConfig()
        marks.on_request_headers_sent.append(_mark_sent)
        self._connections = Connections(
            self.addresses.check_cloud,
            headers={"User-Agent": f"comfy-cloud-proxy/{__version__}"},
            trace_configs=[marks],
        )

    async def start(self) -> None:
        """Open the session; connections come when they are needed."""
        await self._connections.start()

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

    def url(self, *segments: str, **query: str | int) -> URL:
        """A route below `/api`; each segment is one, whatever characters it has.

        Raises `CloudRefused` (404) for a name that no path can hold.
        """
        if any(segment in ("", ".", "..") for segment in segments):
            raise refusal("a name in the path", 404, {"code": "NOT_FOUND"}, None)
        path = [quote(segment, safe="") for segment in ("api", *segments)]
        return self.base_url.joinpath(*path, encoded=True).with_query(query or None)

    async def read(
        self,
        method: str,
        url: URL,
        parse: Callable[[Answer], T],
        *,
        body: Body = nullcontext,
        headers: Mapping[str, str] | None = None,
        total: float | None = None,
    ) -> T:
        """A request that may be repeated; what `parse` makes of its answer.

        `body` is opened for each attempt; `total` replaces the timeout; an answer for which
        `parse` raises `CloudGarbage` is asked for again.
        Raises `CloudUnreachable`, `CloudRefused` or `CloudGarbage`.
        """
        async for attempt in self.attempts():
            with attempt:
                async with body() as data:
                    answer = await self.once(
                        method,
                        url,
                        data=data,
                        headers=headers,
                        total=total,
                        attempts=attempt.num,
                    )
                parsed = parse(answer)
        return parsed

    def attempts(self) -> AsyncIterator[stamina.Attempt]:
        """The repetitions of a read."""
        return self.patience.attempts()

    async def once(
        self,
        method: str,
        url: URL,
        *,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        total: float | None = None,
        attempts: int = 1,
    ) -> Answer:
        """One request and its whole answer; see `open` for the errors."""
        call = _call(method, url)
        limits = aiohttp.ClientTimeout(total=total or self.timeout, sock_connect=CONNECT_TIMEOUT)
        response = await self.open(method, url, data=data, headers=headers, limits=limits)
        try:
            if response.status >= 300:
                raise CloudGarbage(
                    f"{call}: answered with a redirect; check that the base URL begins with https"
                )
            with reported(call, sent=True):
                body = await response.read()
        finally:
            response.release()
        return Answer(call, body, response.content_type, attempts, self.key)

    async def open(
        self,
        method: str,
        url: URL,
        *,
        limits: aiohttp.ClientTimeout,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """One request, answered with a status below 400 whose body is still to come.

        Redirects are not followed: aiohttp would take the key along. The caller releases or
        closes the response. Raises `CloudUnreachable` (its `sent` says whether the cloud may have
        seen it) or `CloudRefused`, without a request where `Restraint` says so.
        """
        call = _call(method, url)
        key = self.key
        self._restraint.check(call, key)
        mark = SimpleNamespace(sent=False)
        began, status = time.perf_counter(), None
        try:
            with reported(call, mark=mark):
                session, proxy = self._connections.choose(url)
                response = await session.request(
                    method,
                    url,
                    data=data,
                    headers={**(headers or {}), "X-API-Key": key},
                    timeout=limits,
                    allow_redirects=False,
                    proxy=proxy,
                    trace_request_ctx=mark,
                )
                status = response.status
                if response.status >= 400:
                    raise await self._refusal(call, response)
        except (CloudRefused, CloudUnreachable) as error:
            self._restraint.failed(error, key)
            raise
        finally:
            path = url.raw_path.removeprefix(self.base_url.raw_path.rstrip("/"))
            self.calls.note(method, route_of(path), status, time.perf_counter() - began)
        self._restraint.answered(key)
        return response

    async def _refusal(self, call: str, response: aiohttp.ClientResponse) -> CloudRefused:
        async with response:
            raw = await response.read()
        wait = retry_after(response.headers.get("Retry-After"), time.time())
        try:
            body = codec.loads_text(raw)
        except ValueError:
            body = raw.decode(errors="replace")
        return refusal(call, response.status, redact(body, self.key) if self.key else body, wait)


def _bare_session(**options: Any) -> aiohttp.ClientSession:
    """A session that carries nothing of its own.

    No cookies; no `trust_env`, with which aiohttp would send what stands in ~/.netrc.
    """
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=True, **options
    )


def outward_proxy(url: URL) -> URL | None:
    """What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say for `url`; never for this machine.

    aiohttp reads these with `trust_env` only, which sends the passwords of ~/.netrc as well. It
    speaks to HTTP proxies alone: another kind is passed by.
    """
    host = url.host or ""
    if host in _LOOPBACK or proxy_bypass(host):
        return None
    scheme = "https" if url.scheme in ("https", "wss") else "http"
    named = getproxies().get(scheme)
    if not named:
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    return proxy if proxy.scheme in ("http", "https") else None


@contextmanager
def reported(
    call: str, *, sent: bool = False, mark: SimpleNamespace | None = None
) -> Iterator[None]:
    """Turn the failures of a connection into `CloudUnreachable`.

    The cause is cut off, for aiohttp's errors name the URL, which may be a signed one.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        went_out = sent if mark is None else bool(mark.sent)
        raise CloudUnreachable(f"{call}: {_reason(error)}", sent=went_out) from None


def refused_address(error: Exception) -> AddressRefusedError | None:
    """The refusal of an address that a failed connection came from, if it did."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    return error if isinstance(error, AddressRefusedError) else None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if refused := refused_address(error):
        return str(refused)
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port} ({error.os_error})"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    return f"the connection was lost ({type(error).__name__})"


def _call(method: str, url: URL) -> str:
    return f"{method} {url.path}"


async def _mark_sent(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.sent = True
