"""What the clients of both kinds of upstreams have: their ways of calling, and downloads."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, TypedDict

from msgspec.structs import replace
from yarl import URL

from proxy.cloud.calls import API, CloudApi, CloudCall
from proxy.cloud.connections import CloudAddresses
from proxy.cloud.contact import CallMonitor
from proxy.cloud.downloads import Downloads
from proxy.cloud.http import Http
from proxy.cloud.observations import AccountObservations
from proxy.cloud.resilience import (
    ONCE,
    ApiKey,
    CallGate,
    CircuitBreaker,
    OpenGate,
    RateLimiter,
    RetryPolicy,
)


class ClientOptions(TypedDict, total=False):
    """The options of a client; see `AccountClient`."""

    retries: RetryPolicy | None
    gate: CallGate | None
    observations: AccountObservations | None


class AccountClient:
    """The calls of one account to the server at `base_url`, which may have a path.

    Reads are repeated as `retries` says. While the server does not answer, `gate` makes calls fail
    at once; after a 429 it pauses all of them. `observations` gets what no document lists, and its
    metrics count the calls. Every call may raise `CloudUnreachable`, `CloudRefused` or
    `CloudGarbage`.

    A class for one kind of server names its API, and the call that opens a file.
    """

    api: ClassVar[CloudApi] = API
    #: The most seconds for a call that is made aside, and whether its answers are observed.
    aside_timeout: ClassVar[float] = float("inf")
    observes_aside: ClassVar[bool] = True
    #: What sentences to people call it, at their beginning.
    title: str = "Comfy Cloud"
    #: Why the account can take no jobs, whatever it answers.
    unusable: str = ""

    def __init__(
        self,
        base_url: URL,
        key: str,
        *,
        retries: RetryPolicy | None = None,
        gate: CallGate | None = None,
        observations: AccountObservations | None = None,
    ) -> None:
        self.base_url = base_url
        self.observations = observations or AccountObservations()
        retries = retries or RetryPolicy()
        #: Also used for the account's settings and files.
        self.http = Http(
            CloudAddresses(base_url),
            ApiKey(key),
            api=self.api,
            retries=retries,
            gate=gate or CallGate(CircuitBreaker(), RateLimiter()),
            monitor=CallMonitor(self.observations.metrics.calls(self.observations.account)),
            observations=self.observations,
        )
        #: Whether the server answers the calls of this account.
        self.contact = self.http.monitor.contact
        timeout = min(retries.attempt_timeout, self.aside_timeout)
        #: For calls whose failures say nothing about others: they change neither breaker nor
        #: limiter.
        self.aside = dataclasses.replace(
            self.http,
            key=ApiKey(key),
            retries=replace(ONCE, attempt_timeout=timeout),
            gate=OpenGate(),
            observations=self.observations if self.observes_aside else AccountObservations(),
        )
        self.downloads = Downloads(self.http, self.content)
        #: Opens the bytes of a file.
        self.download = self.downloads.open

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
