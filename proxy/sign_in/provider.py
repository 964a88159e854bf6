"""What a sign-in at a provider is, for the api: an attempt, and what a provider does with it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Protocol

import msgspec

from proxy.members.provisioning import Identity, ProvisioningRules
from proxy.runtime import randomness
from proxy.storage.encryption import Cipher

#: Seconds that an attempt may take.
ATTEMPT_LIFETIME = 600
#: Seconds by which the clocks of processes and of a provider may differ.
CLOCK_TOLERANCE = 60


class SignInError(Exception):
    """Raised where a sign-in cannot go on. The text is for the person who signs in."""


class ProviderUnavailableError(SignInError):
    """Raised where the provider does not answer, not as a provider of OpenID Connect, or as one
    that is set up otherwise. `problem` is the sentence for admins, with what to do."""

    def __init__(self, text: str, problem: str) -> None:
        super().__init__(text)
        self.problem = problem


class ProviderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is set of a provider.

    People enter who have a verified e-mail address of one of the `domains` and are in one of the
    `groups`; none given is everybody. With `unverified_email` an address counts of which the
    provider does not say whether it is verified. `groups_claim` is where the provider names groups.
    """

    name: str
    issuer: str
    client_id: str
    client_secret: str = ""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    groups_claim: str = "groups"
    domains: frozenset[str] = frozenset()
    unverified_email: bool = False
    groups: frozenset[str] = frozenset()


class Attempt(msgspec.Struct, frozen=True):
    """A sign-in that has begun, as the browser keeps it. `began` is in seconds since 1970, `target`
    the path to which it leads."""

    provider: str
    state: str
    nonce: str
    verifier: str
    target: str
    began: int


def new_attempt(provider: str, target: str, now: float) -> Attempt:
    """Return a new attempt, whose secrets cannot be guessed."""
    state, nonce, verifier = (randomness.token_urlsafe(32) for _ in range(3))
    return Attempt(provider, state, nonce, verifier, target, int(now))


def seal(attempt: Attempt, cipher: Cipher) -> str:
    """Return the attempt as a value for a cookie, with a signature. Raises `StorageError`."""
    data = msgspec.json.encode(attempt)
    return f"{base64.urlsafe_b64encode(data).decode()}.{cipher.sign(data)}"


def unseal(value: str, cipher: Cipher, now: float) -> Attempt | None:
    """Return the attempt of a cookie; `None` if it is not ours or too old (`now` in seconds since
    1970). Raises `StorageError`."""
    encoded, _, proof = value.partition(".")
    try:
        data = base64.b64decode(encoded, altchars=b"-_", validate=True)
        if not proof.isascii() or not cipher.proves(data, proof):
            return None
        attempt = msgspec.json.decode(data, type=Attempt)
    except (binascii.Error, ValueError):
        return None
    return attempt if -CLOCK_TOLERANCE <= now - attempt.began < ATTEMPT_LIFETIME else None


class CheckableProvider(Protocol):
    """What can be asked whether people can sign in at a provider."""

    @property
    def options(self) -> ProviderOptions:
        """What is set of the provider."""

    async def problem(self) -> str | None:
        """Return in a sentence why nobody can sign in, and what to do; `None` if people can."""


class SignInProvider(CheckableProvider, Protocol):
    """A provider at which people sign in."""

    @property
    def rules(self) -> ProvisioningRules:
        """How people who sign in there become members."""

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Return where the browser goes to sign in. Raises `ProviderUnavailableError`."""

    async def identity(
        self, attempt: Attempt, query: Mapping[str, str], redirect_uri: str
    ) -> Identity:
        """Return who has signed in; an attempt counts once. Raises `SignInError` and
        `StorageError`."""

    async def end_session_url(self, redirect_uri: str) -> str | None:
        """Return where a browser ends its session at the provider, if there is such an address."""
