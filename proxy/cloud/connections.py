"""Connections to the cloud and its storage: their addresses, the HTTP proxy on the way, and when a
request is sent."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Self
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from proxy import __version__
from proxy.cloud.reach import AddressRefusedError, Reach, address_in, reach_of

#: What requests to others name the proxy.
USER_AGENT = f"comfy-cloud-proxy/{__version__}"
#: Timeout of a TCP and TLS connection, in seconds.
CONNECT_TIMEOUT = 10.0
#: Timeout of a look-up whose result is only checked, in seconds.
_NAME_TIMEOUT = 2.0

_REACHES: tuple[Reach, ...] = ("public", "private", "loopback")

#: Maximum number of hosts whose HTTP proxy is cached; finding it takes 0.1 ms.
_MAX_CACHED_PROXIES = 64

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

#: What is raised if a connection fails.
CONNECTION_ERRORS = (aiohttp.ClientError, TimeoutError, OSError)


class Connections:
    """Sessions with one kind of peer: a direct one, and one through the environment's HTTP proxy.

    `check` gets each IP address immediately before the connection, and may raise
    `AddressRefusedError`. With an HTTP proxy, which resolves names itself, only an address in the
    URL itself is checked. `resolver` makes what looks up names instead of aiohttp's own; then the
    addresses that a name has here are checked also with an HTTP proxy, and a name that is not known
    here is left to that.
    """

    def __init__(
        self,
        check: Callable[[str], None],
        *,
        resolver: Callable[[], AbstractResolver] | None = None,
        **options: Any,
    ) -> None:
        self._check = check
        self._make_resolver = resolver
        self._resolver: AbstractResolver | None = None
        self._options = options
        self._proxy_for = lru_cache(_MAX_CACHED_PROXIES)(outward_proxy)
        self._sessions: tuple[aiohttp.ClientSession, ...] = ()

    async def start(self) -> None:
        """Open the sessions; connections are made on demand."""
        self._resolver = None if self._make_resolver is None else self._make_resolver()
        checked = aiohttp.TCPConnector(socket_factory=self._socket, resolver=self._resolver)
        direct = _bare_session(connector=checked, **self._options)
        self._sessions = direct, _bare_session(**self._options)

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions:
            await session.close()
        self._sessions = ()
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def choose(self, url: URL) -> tuple[aiohttp.ClientSession, URL | None]:
        """Return the session for a URL, and the HTTP proxy or `None`. Raises
        `AddressRefusedError`."""
        if not self._sessions:
            raise RuntimeError("the cloud client is not started")
        direct, proxied = self._sessions
        if (proxy := self._proxy_for(url.scheme, url.host or "")) is None:
            return direct, None
        if (address := address_in(url.host or "")) is not None:
            self._check(address)
        return proxied, proxy

    async def request(self, method: str, url: URL, **options: Any) -> aiohttp.ClientResponse:
        """Send a request, and return its response before the body. Redirects are not followed: a
        key would be sent along. Raises `CONNECTION_ERRORS`."""
        session, proxy = self.choose(url)
        if proxy is not None and self._resolver is not None:
            await self._check_name(self._resolver, url.raw_host or "")
        return await session.request(method, url, proxy=proxy, allow_redirects=False, **options)

    async def _check_name(self, resolver: AbstractResolver, host: str) -> None:
        """Check the addresses that a host has here. Raises `AddressRefusedError`."""
        found: Sequence[ResolveResult] = ()
        with suppress(OSError, UnicodeError):
            async with asyncio.timeout(_NAME_TIMEOUT):
                found = await resolver.resolve(host, 0, socket.AF_UNSPEC)
        for address in found:
            self._check(address["host"])

    def _socket(self, about: Any) -> socket.socket:
        family, type_, proto, _, address = about
        self._check(str(address[0]))
        return socket.socket(family=family, type=type_, proto=proto)


class CloudAddresses:
    """Checks the addresses of the cloud at `base_url`, and those of its redirects to storage.

    Over plain http the key is sent to loopback and private addresses only, unless `plain_http`.
    `reach` is the widest of the cloud's addresses so far: a public cloud must not redirect the
    proxy into its own network.
    """

    def __init__(self, base_url: URL, *, plain_http: bool = False) -> None:
        self.base_url = base_url
        self._refuses_public = base_url.scheme == "http" and not plain_http
        self.reach: Reach | None = None

    def check_cloud(self, address: str) -> None:
        """Raise `AddressRefusedError` if the key must not be sent there."""
        reach = reach_of(address)
        if self._refuses_public and reach == "public":
            raise AddressRefusedError(
                "the API key is not sent to a public address over plain http: use https in base_url"
            )
        self.reach = min(reach, self.reach or reach, key=_REACHES.index)

    def check_storage(self, address: str) -> None:
        """Raise `AddressRefusedError` for an address that is more local than the cloud's."""
        if _REACHES.index(reach_of(address)) > _REACHES.index(self.reach or "public"):
            raise AddressRefusedError("an address inside the network of the proxy")


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body, or slightly more than `limit` bytes of a larger one, after decompression.
    Raises `CONNECTION_ERRORS`."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def refused_address(error: Exception) -> AddressRefusedError | None:
    """Return the `AddressRefusedError` that caused a connection to fail, `None` for others."""
    if isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error
    return error if isinstance(error, AddressRefusedError) else None


def _bare_session(**options: Any) -> aiohttp.ClientSession:
    """Return a session without cookies and without `trust_env`, with which aiohttp would send the
    passwords of ~/.netrc."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=True, **options
    )


def outward_proxy(scheme: str, host: str) -> URL | None:
    """Return the proxy of `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` for a host, `None` for this
    machine.

    aiohttp reads these with `trust_env` only, which also sends the passwords of ~/.netrc. It
    supports HTTP proxies only; others are ignored.
    """
    if host in _LOOPBACK or proxy_bypass(host):
        return None
    named = getproxies().get("https" if scheme in ("https", "wss") else "http")
    if not named:
        return None
    proxy = URL(named if "://" in named else f"http://{named}")
    return proxy if proxy.scheme in ("http", "https") else None


async def is_reachable(base_url: URL, seconds: float) -> bool:
    """Return whether the cloud answers within so many seconds, on a new connection.

    The route is public: the request carries no key, and any status is an answer.
    """
    check = CloudAddresses(base_url).check_cloud
    url, timeout = base_url.joinpath("api", "system_stats"), aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            Connections(check, headers={"User-Agent": USER_AGENT}) as connections,
            await connections.request("GET", url, timeout=timeout),
        ):
            return True
    except CONNECTION_ERRORS:
        return False


#: Whether the current task's request has begun to be sent.
request_sent: ContextVar[bool] = ContextVar("sent", default=False)
#: What may still stop the current task's requests.
_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def checked(check: Callable[[], None]) -> Iterator[None]:
    """Call `check` immediately before each request of the block is sent. What it raises is raised,
    and nothing is sent.

    Before that a request waits for its turn and for a connection, for seconds, and the process may
    stand still meanwhile.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def begin_to_send() -> None:
    """Note that the current task's request is sent now. Raises what its check raises."""
    check = _check.get()
    if check is not None:
        check()
    request_sent.set(True)


class TrackedRequest(aiohttp.ClientRequest):
    """Notes when it is sent; a `TraceConfig` would cost more."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """Note that the request is sent, and send it. Raises what its check raises."""
        begin_to_send()
        return await super().send(conn)
