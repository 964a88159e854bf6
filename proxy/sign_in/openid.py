"""OpenID Connect Core 1.0 at one provider: the authorization code flow with PKCE (RFC 7636).

authlib makes the challenge and checks the claims of ID tokens, joserfc their signatures; requests
are aiohttp's. A browser keeps what an attempt needs in a signed cookie, so that it can end at
another replica than it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

import aiohttp
import msgspec
import structlog
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from yarl import URL

from proxy import clock
from proxy.members.provisioning import MAX_SUBJECT, Identity, ProvisioningRules
from proxy.members.tokens import digest
from proxy.settings import is_secure
from proxy.sign_in.provider import (
    ATTEMPT_LIFETIME,
    CLOCK_TOLERANCE,
    Attempt,
    ProviderOptions,
    ProviderUnavailableError,
    SignInError,
)
from proxy.storage.leases import LeaseRepository

log = structlog.get_logger(__name__)

#: Seconds for an answer of the provider, and the largest that is read, in bytes.
_TIMEOUT, _MAX_ANSWER = 10.0, 1024 * 1024
#: Seconds for which the provider's metadata and keys are used without asking again.
_METADATA_AGE = 3600.0
#: Seconds between two readings of the keys because of an unknown one.
_KEYS_PAUSE = 30.0

#: Signatures with a public key. An ID token that anybody can make is none: neither `none` nor HMAC.
_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


class _Metadata(msgspec.Struct):
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


def open_session() -> aiohttp.ClientSession:
    """Return a session for requests to providers, by way of the HTTP proxy of the environment."""
    return aiohttp.ClientSession(trust_env=True, cookie_jar=aiohttp.DummyCookieJar())


class Provider:
    """A provider of OpenID Connect, and what is known of it."""

    def __init__(
        self,
        options: ProviderOptions,
        rules: ProvisioningRules,
        http: aiohttp.ClientSession,
        uses: LeaseRepository,
    ) -> None:
        self.options = options
        self.rules = rules
        self._http = http
        self._uses = uses
        self._metadata: _Metadata | None = None
        self._keys: KeySet | None = None
        self._read_at = self._keys_at = -_METADATA_AGE
        self._readings = 0
        self._reading = asyncio.Lock()

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Return where the browser goes to sign in. Raises `ProviderUnavailableError`."""
        metadata = await self._read_metadata()
        return str(
            prepare_grant_uri(
                metadata.authorization_endpoint,
                self.options.client_id,
                "code",
                redirect_uri=redirect_uri,
                scope=" ".join(self.options.scopes),
                state=attempt.state,
                nonce=attempt.nonce,
                code_challenge=create_s256_code_challenge(attempt.verifier),  # type: ignore[no-untyped-call]
                code_challenge_method="S256",
            )
        )

    async def identity(
        self, attempt: Attempt, query: Mapping[str, str], redirect_uri: str
    ) -> Identity:
        """Return who has signed in, as the provider's answer in `query` says.

        Raises `SignInError`, also for an attempt that was used before, and
        `ProviderUnavailableError`, `StorageError`.
        """
        if not await self._uses.use(f"sign-in {digest(attempt.state)}", ATTEMPT_LIFETIME):
            raise SignInError("This sign-in was used before; begin again.")
        metadata = await self._read_metadata()
        self._check_issuer(metadata, query.get("iss"))
        if "error" in query:
            raise SignInError(f"{self.options.label} did not sign you in; try again.")
        if not query.get("code"):
            raise SignInError(f"The answer of {self.options.label} has no code; try again.")
        answer = await self._exchange(metadata, query["code"], attempt.verifier, redirect_uri)
        claims = await self._checked(metadata, answer, attempt.nonce)
        lacks = any(claim not in claims for claim in self._claims_needed())
        token = answer.get("access_token")
        if lacks and metadata.userinfo_endpoint is not None and isinstance(token, str):
            more = await self._get(metadata.userinfo_endpoint, bearer=token)
            if more.get("sub") != claims["sub"]:
                raise SignInError(f"{self.options.label} speaks of somebody else; try again.")
            claims = {**more, **claims}
        return self._admitted(claims)

    async def end_session_url(self, redirect_uri: str) -> str | None:
        """Return where a browser ends its session at the provider, `None` if there is no such
        address."""
        try:
            metadata = await self._read_metadata()
        except ProviderUnavailableError:
            return None
        if metadata.end_session_endpoint is None:
            return None
        url = URL(metadata.end_session_endpoint)
        return str(
            url.update_query(
                client_id=self.options.client_id, post_logout_redirect_uri=redirect_uri
            )
        )

    # --- what the provider says ------------------------------------------------------------

    def _check_issuer(self, metadata: _Metadata, named: str | None) -> None:
        """Refuse the answer of another provider (RFC 9207)."""
        if named is None and not metadata.authorization_response_iss_parameter_supported:
            return
        if named != metadata.issuer:
            log.warning("sign_in_issuer_rejected", provider=self.options.name)
            raise SignInError("The answer is not from the provider that was asked; try again.")

    async def _exchange(
        self, metadata: _Metadata, code: str, verifier: str, redirect_uri: str
    ) -> dict[str, Any]:
        """Return the tokens for a code."""
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
        return await self._call("POST", metadata.token_endpoint, data=form, headers=headers)

    async def _checked(
        self, metadata: _Metadata, answer: Mapping[str, Any], nonce: str
    ) -> dict[str, Any]:
        """Return the claims of the ID token, once it is right (OpenID Connect Core 3.1.3.7)."""
        text = answer.get("id_token")
        if not isinstance(text, str):
            raise SignInError(f"{self.options.label} sent no ID token; tell an admin.")
        options = {
            "iss": {"essential": True, "value": metadata.issuer},
            "aud": {"essential": True, "values": [self.options.client_id]},
        }
        params = {
            "nonce": nonce,
            "client_id": self.options.client_id,
            "access_token": answer.get("access_token"),
        }
        try:
            token = await self._verified(metadata, text)
            claims = CodeIDToken(token.claims, token.header, options, params)
            claims.validate(int(clock.time()), CLOCK_TOLERANCE)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            log.warning("id_token_rejected", provider=self.options.name, error=repr(error)[:200])
            raise SignInError(
                f"The ID token of {self.options.label} is not valid; try again."
            ) from None
        return dict(claims)

    async def _verified(self, metadata: _Metadata, text: str) -> jwt.Token:
        """Return an ID token whose signature is the provider's. Raises `JoseError`."""
        named = metadata.id_token_signing_alg_values_supported or ["RS256"]
        algorithms = sorted(_ALGORITHMS.intersection(named))
        keys = await self._read_keys(metadata)
        try:
            return jwt.decode(text, keys, algorithms)
        except (JoseError, ValueError):
            if clock.monotonic() - self._keys_at < _KEYS_PAUSE:
                raise
        return jwt.decode(text, await self._read_keys(metadata, anew=True), algorithms)

    def _claims_needed(self) -> list[str]:
        needed = ["email", "email_verified"] if self.options.domains else ["email"]
        return [*needed, self.options.groups_claim]

    def _admitted(self, claims: Mapping[str, Any]) -> Identity:
        """Return the identity, if the person may enter."""
        options, email = self.options, claims.get("email")
        groups = _groups_of(claims.get(options.groups_claim))
        if options.domains:
            domain = email.rpartition("@")[2].lower() if isinstance(email, str) else ""
            if claims.get("email_verified") is not True or domain not in options.domains:
                raise SignInError("Your e-mail address cannot be used here; ask an admin.")
        if options.groups and not options.groups & groups:
            raise SignInError("You are in none of the groups that can sign in; ask an admin.")
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT:
            raise SignInError(f"{options.label} did not say who you are; tell an admin.")
        names = (claims.get("preferred_username"), email, claims.get("name"))
        name = next((name for name in names if isinstance(name, str) and name), "")
        return Identity(options.issuer, subject, name, groups)

    # --- requests --------------------------------------------------------------------------

    async def _read_metadata(self) -> _Metadata:
        """Return the metadata; while they cannot be read again, those that were read before.

        Those who come while they are read wait for that reading, and share its outcome.
        """
        readings = self._readings
        async with self._reading:
            age = clock.monotonic() - self._read_at
            if self._readings == readings and age >= _METADATA_AGE:
                await self._read_metadata_again()
                self._readings += 1
            if self._metadata is None:
                raise ProviderUnavailableError(
                    f"{self.options.label} cannot be reached; try again later."
                )
            return self._metadata

    async def _read_metadata_again(self) -> None:
        url = get_well_known_url(self.options.issuer, external=True)
        try:
            metadata = msgspec.convert(await self._get(url), _Metadata)
            self._check_metadata(metadata)
        except (ProviderUnavailableError, msgspec.ValidationError) as error:
            log.warning("provider_read_failed", provider=self.options.name, error=str(error))
        else:
            self._metadata, self._read_at = metadata, clock.monotonic()

    def _check_metadata(self, metadata: _Metadata) -> None:
        if metadata.issuer != self.options.issuer:
            raise ProviderUnavailableError(
                f"its metadata are those of the issuer {metadata.issuer[:200]}"
            )
        addresses = (
            metadata.authorization_endpoint,
            metadata.token_endpoint,
            metadata.jwks_uri,
            metadata.userinfo_endpoint or self.options.issuer,
            metadata.end_session_endpoint or self.options.issuer,
        )
        if not all(map(is_secure, addresses)):
            raise ProviderUnavailableError("its metadata have addresses without https")

    async def _read_keys(self, metadata: _Metadata, *, anew: bool = False) -> KeySet:
        now = clock.monotonic()
        if self._keys is None or anew or now - self._keys_at > _METADATA_AGE:
            document: Any = await self._get(metadata.jwks_uri)
            self._keys, self._keys_at = KeySet.import_key_set(document), now
        return self._keys

    async def _get(self, url: str, *, bearer: str | None = None) -> dict[str, Any]:
        headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        return await self._call("GET", url, headers=headers)

    async def _call(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        data: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Return the JSON object of an answer. Raises `ProviderUnavailableError`, and `SignInError`
        for a 4xx."""
        try:
            async with (
                asyncio.timeout(_TIMEOUT),
                self._http.request(
                    method, url, headers=headers, data=data, allow_redirects=False
                ) as answer,
            ):
                body = b""
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > _MAX_ANSWER:
                        break
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ProviderUnavailableError(
                f"{self.options.label} cannot be reached; try again later."
            ) from error
        if 400 <= answer.status < 500 and method == "POST":
            log.warning("sign_in_refused", provider=self.options.name, status=answer.status)
            raise SignInError(f"{self.options.label} did not sign you in; try again.")
        try:
            if answer.status != 200 or len(body) > _MAX_ANSWER:
                raise ValueError(f"status {answer.status}, {len(body)} bytes")
            return msgspec.json.decode(body, type=dict[str, Any])
        except ValueError as error:
            raise ProviderUnavailableError(
                f"{self.options.label} did not answer as it should ({error}); try again later."
            ) from None


def _groups_of(named: object) -> frozenset[str]:
    """Return the groups that a claim names. AD FS sends a single group as text, not as a list."""
    listed = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return frozenset(group for group in listed if isinstance(group, str))
