"""What the clients of both kinds of upstreams have: their ways of calling, and downloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, TypedDict

from yarl import URL

from proxy.cloud.downloads import Downloads
from proxy.cloud.http import ROUTES, CloudCall, Http, api_key
from proxy.cloud.resilience import (
    ONCE,
    ApiKey,
    CallGate,
    CircuitBreaker,
    OpenGate,
    RateLimiter,
    RetryPolicy,
)
from proxy.metrics import CloudCalls, Metrics
from proxy.observations import AccountObservations


class ClientOptions(TypedDict, total=False):
    """The options of a client; see `AccountClient`."""

    timeout: float
    retries: RetryPolicy | None
    breaker: CircuitBreaker | None
    limiter: RateLimiter | None
    plain_http: bool
    calls: CloudCalls | None
    observations: AccountObservations | None


class AccountClient:
    """The calls of one account to the server at `base_url`, which may have a path.

    `timeout` is in seconds for one attempt; reads are repeated as `retries` says. While the server
    does not answer, `breaker` makes calls fail at once; after a 429 `limiter` pauses all of them.
    With `plain_http` the key is also sent to public addresses over http. `observations` gets what
    no document lists. Every call may raise `CloudUnreachable`, `CloudRefused` or `CloudGarbage`.

    A class for one kind of server names the routes by which its calls are counted, the headers with
    a key, and the call that opens a file.
    """

    routes: ClassVar[Mapping[str, str]] = ROUTES
    #: The most seconds for a call that is made aside, and whether its answers are observed.
    aside_timeout: ClassVar[float] = float("inf")
    observes_aside: ClassVar[bool] = True

    def __init__(
        self,
        base_url: URL,
        key: str,
        *,
        timeout: float = 30.0,
        retries: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        limiter: RateLimiter | None = None,
        plain_http: bool = False,
        calls: CloudCalls | None = None,
        observations: AccountObservations | None = None,
    ) -> None:
        self.base_url = base_url
        self.observations = observations or AccountObservations()
        #: Also used for the account's settings and files.
        self.http = Http(
            base_url,
            ApiKey(key),
            timeout=timeout,
            retries=retries or RetryPolicy(),
            gate=CallGate(breaker or CircuitBreaker(), limiter or RateLimiter()),
            calls=calls or Metrics().calls(""),
            observations=self.observations,
            plain_http=plain_http,
            routes=self.routes,
            credential=self.credential,
        )
        #: Whether the server answers the calls of this account.
        self.contact = self.http.contact
        #: For calls whose failures say nothing about others: they change neither breaker nor
        #: limiter.
        self.aside = replace(
            self.http,
            key=ApiKey(key),
            timeout=min(timeout, self.aside_timeout),
            retries=ONCE,
            gate=OpenGate(),
            observations=self.observations if self.observes_aside else AccountObservations(),
        )
        self.downloads = Downloads(self.http, self.content)
        #: Opens the bytes of a file.
        self.download = self.downloads.open

    @staticmethod
    def credential(key: str) -> Mapping[str, str]:
        """Return the headers with a key."""
        return api_key(key)

    def content(self, cloud_name: str, type_: str) -> CloudCall:
        """Return the call that opens a file, by its name and its folder."""
        raise NotImplementedError

    async def start(self) -> None:
        """Open the sessions. No call is made."""
        await self.http.connections.start()
        await self.aside.connections.start()
        await self.downloads.start()

    async def close(self) -> None:
        """Close all connections."""
        await self.downloads.close()
        await self.aside.connections.close()
        await self.http.connections.close()

    def use_key(self, key: str) -> None:
        """Use another key from the next call on."""
        self.http.key, self.aside.key = ApiKey(key), ApiKey(key)
