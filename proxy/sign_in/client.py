"""Requests to one provider of OpenID Connect: its metadata, its keys, tokens and claims."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, Self
from urllib.parse import quote_plus

import aiohttp
import msgspec
import structlog
from authlib.oidc.discovery import get_well_known_url
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from yarl import URL

from proxy.cloud.connections import (
    CONNECTION_ERRORS,
    CloudAddresses,
    Connections,
    read_body,
    refused_address,
)
from proxy.runtime import clock
from proxy.settings import is_secure
from proxy.sign_in.provider import (
    ProviderOptions,
    ProviderUnavailableError,
    SignInError,
)
from proxy.translate.errors import kept

log = structlog.get_logger(__name__)

#: Seconds for an answer of the provider, and the largest that is read, in bytes.
_TIMEOUT, _MAX_ANSWER = 10.0, 1024 * 1024
#: Seconds for which the provider's metadata and keys are used without asking again.
_METADATA_AGE = 3600.0
#: Seconds between two readings of the keys because of an unknown one.
_KEYS_PAUSE = 30.0
#: How the token endpoint refuses a client that it does not know, or that has another secret
#: (RFC 6749 5.2; Entra and Keycloak say the second).
_UNKNOWN_CLIENT = frozenset({"invalid_client", "unauthorized_client"})


class Metadata(msgspec.Struct):
    """What is used of a provider's metadata (OpenID Connect Discovery 1.0, RFC 9207)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    id_token_signing_alg_values_supported: list[str] = msgspec.field(default_factory=list)
    token_endpoint_auth_methods_supported: list[str] = msgspec.field(default_factory=list)
    authorization_response_iss_parameter_supported: bool = False


class ProviderClient:
    """Asks a provider, and remembers its metadata and keys for an hour.

    Endpoints that it names on other hosts are not connected to if they are more local than itself.
    """

    def __init__(self, options: ProviderOptions) -> None:
        self.options = options
        self._issuer = URL(options.issuer)
        addresses = CloudAddresses(self._issuer, plain_http=True)  # the setting refuses it
        self._own = Connections(addresses.check_cloud)
        self._named = Connections(addresses.check_storage)
        self._opened = AsyncExitStack()
        self._metadata: Metadata | None = None
        self._keys: KeySet | None = None
        self._read_at = self._keys_at = -_METADATA_AGE
        self._readings = 0
        self._reading = asyncio.Lock()
        self._failure = self._unreachable("it was not asked yet")

    async def __aenter__(self) -> Self:
        for connections in (self._own, self._named):
            await self._opened.enter_async_context(connections)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def problem(self) -> str | None:
        """Return in a sentence why nobody can sign in, and what to do; `None` if people can.

        The secret is tried with a code that the provider has not given.
        """
        try:
            metadata = await self.metadata()
            await self.keys(metadata)
            await self.exchange(metadata, "test", "test", "https://localhost/")
        except ProviderUnavailableError as error:
            return error.problem
        except SignInError:  # the code is wrong, as it has to be
            pass
        return None

    async def metadata(self) -> Metadata:
        """Return the metadata; while they cannot be read again, those that were read before.

        Callers during a reading wait for it and share its outcome. Raises
        `ProviderUnavailableError`.
        """
        readings = self._readings
        async with self._reading:
            age = clock.monotonic() - self._read_at
            if self._readings == readings and age >= _METADATA_AGE:
                await self._read_metadata()
                self._readings += 1
            if self._metadata is None:
                raise ProviderUnavailableError(str(self._failure), self._failure.problem)
            return self._metadata

    async def keys(self, metadata: Metadata, *, anew: bool = False) -> KeySet:
        """Return the public keys of the provider, `anew` those of now. Raises
        `ProviderUnavailableError`."""
        now = clock.monotonic()
        if self._keys is None or anew or now - self._keys_at > _METADATA_AGE:
            document: Any = await self.get(metadata.jwks_uri)
            try:
                self._keys, self._keys_at = KeySet.import_key_set(document), now
            except (JoseError, ValueError, KeyError, TypeError) as error:
                raise ProviderUnavailableError(
                    f"The provider {self.options.name} sent an invalid answer; try again later.",
                    f"{metadata.jwks_uri} has no keys of a provider ({error!r}): check issuer.",
                ) from None
        return self._keys

    @property
    def has_new_keys(self) -> bool:
        """Whether the keys were read so lately that an unknown one is none of the provider's."""
        return clock.monotonic() - self._keys_at < _KEYS_PAUSE

    async def exchange(
        self, metadata: Metadata, code: str, verifier: str, redirect_uri: str
    ) -> dict[str, Any]:
        """Return the tokens for a code. Raises `SignInError` and `ProviderUnavailableError`."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        options, methods = self.options, metadata.token_endpoint_auth_methods_supported
        if not options.client_secret:
            form["client_id"] = options.client_id
        elif not methods or "client_secret_basic" in methods:
            headers["Authorization"] = aiohttp.encode_basic_auth(
                quote_plus(options.client_id), quote_plus(options.client_secret)
            )
        else:
            form |= {"client_id": options.client_id, "client_secret": options.client_secret}
        status, body = await self._call("POST", metadata.token_endpoint, headers, form)
        if not 400 <= status < 500:
            return self._object(status, body)
        reason = self._object(200, body).get("error") if body[:1] == b"{" else None
        log.warning("sign_in_refused", provider=options.name, status=status)
        if reason in _UNKNOWN_CLIENT:
            raise self._misconfigured(
                f"it does not take client_id {options.client_id} with this secret ({reason}): "
                "correct client_id and client_secret_file"
            )
        raise SignInError(f"The provider {options.name} did not sign you in; try again.")

    async def get(self, url: str, *, bearer: str | None = None) -> dict[str, Any]:
        """Return a JSON object. Raises `ProviderUnavailableError`."""
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        return self._object(*await self._call("GET", url, headers))

    async def _read_metadata(self) -> None:
        url = get_well_known_url(self.options.issuer, external=True)
        try:
            metadata = msgspec.convert(await self.get(url), Metadata)
            self._check_metadata(metadata)
        except msgspec.ValidationError as error:
            self._failure = self._unreachable(f"{url} has no metadata of a provider ({error})")
        except ProviderUnavailableError as error:
            self._failure = kept(error)
        else:
            self._metadata, self._read_at = metadata, clock.monotonic()
            return
        log.warning("provider_read_failed", provider=self.options.name, error=self._failure.problem)

    def _check_metadata(self, metadata: Metadata) -> None:
        if metadata.issuer != self.options.issuer:
            own = metadata.issuer[:200]
            raise self._misconfigured(
                f"it calls itself {own}, not {self.options.issuer}: set issuer to {own}"
            )
        addresses = (
            metadata.authorization_endpoint,
            metadata.token_endpoint,
            metadata.jwks_uri,
            metadata.userinfo_endpoint or self.options.issuer,
            metadata.end_session_endpoint or self.options.issuer,
        )
        if not all(map(is_secure, addresses)):
            raise self._misconfigured("its metadata have addresses without https")

    def _object(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            if status != 200 or len(body) > _MAX_ANSWER:
                raise ValueError(f"status {status}, {len(body)} bytes")
            return msgspec.json.decode(body, type=dict[str, Any])
        except ValueError as error:
            raise ProviderUnavailableError(
                f"The provider {self.options.name} sent an invalid answer ({error}); try again "
                "later.",
                f"{self.options.issuer} did not answer as a provider ({error}): check issuer.",
            ) from None

    async def _call(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Return the status and the body of an answer, of which no more than a little over
        `_MAX_ANSWER` is read. Raises `ProviderUnavailableError`."""
        address = URL(url)
        connections = self._own if address.host == self._issuer.host else self._named
        try:
            async with (
                asyncio.timeout(_TIMEOUT),
                await connections.request(method, address, headers=headers, data=data) as answer,
            ):
                return answer.status, await read_body(answer, _MAX_ANSWER)
        except CONNECTION_ERRORS as error:
            refused = refused_address(error)
            reason = str(refused or error) or "no answer"
            raise self._unreachable(reason) from error

    def _unreachable(self, reason: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            f"The provider {self.options.name} cannot be reached; try again later.",
            f"{self.options.issuer} cannot be reached ({reason}): check the network and issuer.",
        )

    def _misconfigured(self, reason: str) -> ProviderUnavailableError:
        return ProviderUnavailableError(
            f"Sign-in with {self.options.name} is not configured correctly; tell an admin of this "
            "server.",
            f"Nobody can sign in at {self.options.issuer}: {reason}.",
        )
