"""OpenID Connect Core 1.0 at one provider: the authorization code flow with PKCE (RFC 7636).

authlib makes the challenge and checks the claims of ID tokens, joserfc their signatures; requests
are aiohttp's. A browser keeps what an attempt needs in a signed cookie, so that it can end at
another leader than it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import JoseError
from yarl import URL

from proxy.members.provisioning import MAX_SUBJECT, Identity, ProvisioningRules
from proxy.members.tokens import digest
from proxy.runtime import clock
from proxy.sign_in.client import Metadata, ProviderClient
from proxy.sign_in.provider import (
    ATTEMPT_LIFETIME,
    CLOCK_TOLERANCE,
    Attempt,
    ProviderUnavailableError,
    SignInError,
)
from proxy.storage.leases import LeaseRepository
from proxy.translate.reading import list_of

log = structlog.get_logger(__name__)

#: Signatures with a public key. An ID token that anybody can make is none: neither `none` nor HMAC.
_ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)


class Provider:
    """A provider of OpenID Connect, and what is known of it."""

    def __init__(
        self, client: ProviderClient, rules: ProvisioningRules, uses: LeaseRepository
    ) -> None:
        self.options = client.options
        self.rules = rules
        self._client = client
        self._uses = uses

    async def problem(self) -> str | None:
        """Return in a sentence why nobody can sign in, and what to do; `None` if people can."""
        return await self._client.problem()

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Return where the browser goes to sign in. Raises `ProviderUnavailableError`."""
        metadata = await self._client.metadata()
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
            raise SignInError("This sign-in was already used; start again.")
        metadata = await self._client.metadata()
        self._check_issuer(metadata, query.get("iss"))
        if "error" in query:
            raise SignInError(f"The provider {self.options.name} did not sign you in; try again.")
        if not query.get("code"):
            raise SignInError(f"The answer of {self.options.name} has no code; try again.")
        answer = await self._client.exchange(
            metadata, query["code"], attempt.verifier, redirect_uri
        )
        claims = await self._checked(metadata, answer, attempt.nonce)
        lacks = any(claim not in claims for claim in self._claims_needed())
        token = answer.get("access_token")
        if lacks and metadata.userinfo_endpoint is not None and isinstance(token, str):
            more = await self._client.get(metadata.userinfo_endpoint, bearer=token)
            if more.get("sub") != claims["sub"]:
                raise SignInError(
                    f"The answer of {self.options.name} is about another user; try again."
                )
            claims = {**more, **claims}
        return self._admitted(claims)

    async def end_session_url(self, redirect_uri: str) -> str | None:
        """Return where a browser ends its session at the provider, `None` if there is no such
        address."""
        try:
            metadata = await self._client.metadata()
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

    def _check_issuer(self, metadata: Metadata, named: str | None) -> None:
        """Refuse the answer of another provider (RFC 9207)."""
        if named is None and not metadata.authorization_response_iss_parameter_supported:
            return
        if named != metadata.issuer:
            log.warning("sign_in_issuer_rejected", provider=self.options.name)
            raise SignInError("The answer is not from the provider that was asked; try again.")

    async def _checked(
        self, metadata: Metadata, answer: Mapping[str, Any], nonce: str
    ) -> dict[str, Any]:
        """Return the claims of the ID token, once it is right (OpenID Connect Core 3.1.3.7)."""
        text = answer.get("id_token")
        if not isinstance(text, str):
            raise SignInError(f"The provider {self.options.name} sent no ID token; tell an admin.")
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
                f"The ID token of {self.options.name} is not valid; try again."
            ) from None
        return dict(claims)

    async def _verified(self, metadata: Metadata, text: str) -> jwt.Token:
        """Return an ID token whose signature is the provider's. Raises `JoseError`."""
        named = metadata.id_token_signing_alg_values_supported or ["RS256"]
        algorithms = sorted(_ALGORITHMS.intersection(named))
        keys = await self._client.keys(metadata)
        try:
            return jwt.decode(text, keys, algorithms)
        except (JoseError, ValueError):
            if self._client.has_new_keys:
                raise
        return jwt.decode(text, await self._client.keys(metadata, anew=True), algorithms)

    def _claims_needed(self) -> list[str]:
        needed = ["email", "email_verified"] if self.options.domains else ["email"]
        return [*needed, self.options.groups_claim]

    def _admitted(self, claims: Mapping[str, Any]) -> Identity:
        """Return the identity, if the person may enter."""
        options, email = self.options, claims.get("email")
        groups = _groups_of(claims.get(options.groups_claim))
        if options.domains:
            domain = email.rpartition("@")[2].lower() if isinstance(email, str) else ""
            verified = claims.get("email_verified", options.unverified_email)
            if verified is not True or domain not in options.domains:
                raise SignInError("Your e-mail address cannot be used here; ask an admin.")
        if options.groups and not options.groups & groups:
            raise SignInError("You are in none of the groups that can sign in; ask an admin.")
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT:
            raise SignInError(
                f"The provider {options.name} did not say who you are; tell an admin."
            )
        names = (claims.get("preferred_username"), email, claims.get("name"))
        name = next((name for name in names if isinstance(name, str) and name), "")
        return Identity(options.issuer, subject, name, groups)


def _groups_of(named: object) -> frozenset[str]:
    """Return the groups that a claim names. AD FS sends a single group as text, not as a list."""
    listed = [named] if isinstance(named, str) else list_of(named)
    return frozenset(group for group in listed if isinstance(group, str))
