"""A provider that lies, or somebody between: forged ID tokens, other issuers, huge answers."""

from __future__ import annotations

import asyncio
import base64
import functools
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from backend import open_database
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from msgspec.structs import replace

from proxy.members.provisioning import ProvisioningRules
from proxy.sign_in.client import ProviderClient
from proxy.sign_in.openid import Provider
from proxy.sign_in.provider import (
    Attempt,
    ProviderOptions,
    ProviderUnavailableError,
    SignInError,
    new_attempt,
)
from proxy.storage.leases import LeaseRepository

REDIRECT = "http://127.0.0.1/proxy/sign-in/company/callback"


@functools.cache
def rsa(name: str = "own") -> RSAKey:
    """A key of 2048 bits: one for each name, made where the first test needs it."""
    return RSAKey.generate_key(2048, {"kid": "1"})


@dataclass
class Issuer:
    """A provider that answers as a test says."""

    issuer: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=lambda: [rsa()])
    key_document: Any = None
    tokens: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    forms: list[dict[str, str]] = field(default_factory=list)

    def claims(self, attempt: Attempt, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "ann",
            "aud": "comfy",
            "iat": now,
            "exp": now + 60,
            "nonce": attempt.nonce,
            "email": "ann@example.com",
            "groups": ["staff"],
        }
        claims |= more
        return {name: value for name, value in claims.items() if value is not None}

    def answer(self, claims: dict[str, Any], *, alg: str = "RS256", key: Any = None) -> None:
        """Answer with an ID token."""
        header = {"alg": alg, "kid": "1"}
        self.tokens = {"id_token": jwt.encode(header, claims, key or rsa(), algorithms=[alg])}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        match request.path:
            case "/.well-known/openid-configuration":
                return web.json_response(
                    {
                        "issuer": self.issuer,
                        "authorization_endpoint": f"{self.issuer}/authorize",
                        "token_endpoint": f"{self.issuer}/token",
                        "jwks_uri": f"{self.issuer}/keys",
                        "userinfo_endpoint": f"{self.issuer}/userinfo",
                        **self.metadata,
                    }
                )
            case "/keys":
                if self.key_document is not None:
                    return web.json_response(self.key_document)
                return web.json_response(KeySet(self.keys).as_dict(private=False))
            case "/token":
                self.forms.append({**(await request.post())})  # type: ignore[dict-item]
                return web.json_response(self.tokens)
            case "/userinfo":
                return web.json_response(self.userinfo)
        raise web.HTTPNotFound


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", issuer.handle)
    async with TestServer(app) as server:
        issuer.issuer = f"http://127.0.0.1:{server.port}"
        yield issuer


@pytest.fixture
async def provider(issuer: Issuer, tmp_path: Path) -> AsyncIterator[Provider]:
    options = ProviderOptions(
        name="company",
        issuer=issuer.issuer,
        client_id="comfy",
        client_secret="a secret",
    )
    database = await open_database(tmp_path / "data")
    async with ProviderClient(options) as client:
        yield Provider(client, ProvisioningRules(), LeaseRepository(database))
    await database.close()


@pytest.fixture
def attempt() -> Attempt:
    return new_attempt("company", "/", time.time())


def encoded(part: str | bytes) -> bytes:
    data = part.encode() if isinstance(part, str) else part
    return base64.urlsafe_b64encode(data).rstrip(b"=")


async def subject(provider: Provider, attempt: Attempt, **query: str) -> str:
    """Who an attempt leads to; each call is an attempt of its own."""
    own = replace(attempt, state=secrets.token_hex())
    identity = await provider.identity(own, {"code": "c", **query}, REDIRECT)
    return identity.subject


async def test_a_right_token_says_who_it_is(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.answer(issuer.claims(attempt))
    assert await subject(provider, attempt) == "ann"
    (form,) = issuer.forms
    assert form["code_verifier"] == attempt.verifier


@pytest.mark.parametrize(
    "more",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "somebody"},
        {"aud": ["comfy", "somebody"]},
        {"aud": None},
        {"aud": ["somebody"], "azp": "comfy"},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": 7},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"iat": None},
        {"nbf": 4_000_000_000},
        {"azp": "somebody"},
    ],
    ids=str,
)
async def test_a_token_for_something_else_is_refused(
    issuer: Issuer, provider: Provider, attempt: Attempt, more: dict[str, Any]
) -> None:
    issuer.answer(issuer.claims(attempt, **more))
    with pytest.raises(SignInError):
        await subject(provider, attempt)


async def test_a_token_with_another_key_is_refused(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.answer(issuer.claims(attempt), key=rsa("other"))
    with pytest.raises(SignInError):
        await subject(provider, attempt)


async def test_a_token_without_a_signature_is_refused(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.metadata = {"id_token_signing_alg_values_supported": ["none", "HS256", "RS256"]}
    issuer.answer(issuer.claims(attempt))
    head, body, _ = issuer.tokens["id_token"].split(".")
    none = "eyJhbGciOiJub25lIn0"
    for forged in (f"{none}.{body}.", f"{head}.{body}.", body, "", f"{head}.{body}.AAAA"):
        issuer.tokens = {"id_token": forged}
        with pytest.raises(SignInError):
            await subject(provider, attempt)


@pytest.mark.parametrize("form", ["pem", "der"])
async def test_the_public_key_is_no_secret_of_an_hmac(
    issuer: Issuer, provider: Provider, attempt: Attempt, form: str
) -> None:
    issuer.metadata = {"id_token_signing_alg_values_supported": ["HS256", "RS256"]}
    public = rsa().as_pem(private=False) if form == "pem" else rsa().as_der(private=False)
    parts = ({"alg": "HS256", "kid": "1"}, issuer.claims(attempt))
    signed = b".".join(map(encoded, map(json.dumps, parts)))
    proof = encoded(hmac.digest(public, signed, "sha256"))
    issuer.tokens = {"id_token": f"{signed.decode()}.{proof.decode()}"}
    with pytest.raises(SignInError):
        await subject(provider, attempt)


@pytest.mark.parametrize(
    "document",
    [{}, {"keys": 1}, {"keys": []}, {"keys": [1]}, {"keys": [{"kty": "RSA"}]}],
)
async def test_keys_that_cannot_be_read_are_told_to_the_admin(
    issuer: Issuer, provider: Provider, attempt: Attempt, document: Any
) -> None:
    issuer.key_document = document
    issuer.answer(issuer.claims(attempt))
    with pytest.raises(SignInError, match="sent an invalid answer"):
        await subject(provider, attempt)
    problem = await provider.problem()
    assert problem is not None
    assert problem.startswith(f"{issuer.issuer}/keys has no keys of a provider")


async def test_a_new_key_is_fetched_once_it_signs(
    issuer: Issuer, provider: Provider, attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.answer(issuer.claims(attempt))
    await subject(provider, attempt)
    issuer.keys = [rsa("other")]
    issuer.answer(issuer.claims(attempt), key=rsa("other"))
    monkeypatch.setattr("proxy.sign_in.client._KEYS_PAUSE", 0.0)
    assert await subject(provider, attempt) == "ann"


async def test_wrong_tokens_do_not_make_it_ask_for_keys_again_and_again(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.answer(issuer.claims(attempt), key=rsa("other"))
    for _ in range(5):
        with pytest.raises(SignInError):
            await subject(provider, attempt)
    assert issuer.asked.count("/keys") == 1
    assert issuer.asked.count("/.well-known/openid-configuration") == 1


async def test_other_algorithms_with_a_public_key_count(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    key = ECKey.generate_key("P-256", {"kid": "1"})
    issuer.keys, issuer.metadata = [key], {"id_token_signing_alg_values_supported": ["ES256"]}
    issuer.answer(issuer.claims(attempt), alg="ES256", key=key)
    assert await subject(provider, attempt) == "ann"


async def test_an_answer_of_another_issuer_is_refused(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.answer(issuer.claims(attempt))
    with pytest.raises(SignInError):
        await subject(provider, attempt, iss="https://evil.example")
    assert issuer.forms == []
    issuer.metadata = {"authorization_response_iss_parameter_supported": True}


async def test_those_who_wait_for_a_provider_that_is_down_wait_together(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.metadata = {"issuer": "https://evil.example"}
    urls = [provider.authorization_url(attempt, REDIRECT) for _ in range(10)]
    errors = await asyncio.gather(*urls, return_exceptions=True)
    assert {type(error) for error in errors} == {ProviderUnavailableError}
    assert issuer.asked == ["/.well-known/openid-configuration"]
    issuer.metadata = {}
    assert (await provider.authorization_url(attempt, REDIRECT)).startswith(issuer.issuer)


async def test_metadata_of_another_issuer_are_refused(issuer: Issuer, provider: Provider) -> None:
    issuer.metadata = {"issuer": "https://evil.example"}
    attempt = new_attempt("company", "/", time.time())
    with pytest.raises(ProviderUnavailableError):
        await provider.authorization_url(attempt, REDIRECT)


@pytest.mark.parametrize("name", ["token_endpoint", "jwks_uri", "authorization_endpoint"])
async def test_metadata_without_tls_are_refused(
    issuer: Issuer, provider: Provider, attempt: Attempt, name: str
) -> None:
    issuer.metadata = {name: "http://login.example.com/x"}
    with pytest.raises(ProviderUnavailableError):
        await provider.authorization_url(attempt, REDIRECT)


async def test_userinfo_of_somebody_else_is_refused(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.answer(issuer.claims(attempt, email=None))
    issuer.tokens["access_token"] = "x"
    issuer.userinfo = {"sub": "bob", "email": "bob@example.com"}
    with pytest.raises(SignInError):
        await subject(provider, attempt)
    issuer.userinfo = {"sub": "ann", "email": "ann@example.net"}
    identity = await provider.identity(attempt, {"code": "c"}, REDIRECT)
    assert (identity.subject, identity.name) == ("ann", "ann@example.net")


async def test_an_answer_that_is_too_large_is_not_read(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.tokens = {"id_token": "x" * 2_000_000}
    with pytest.raises(ProviderUnavailableError):
        await subject(provider, attempt)


async def test_it_follows_no_redirect_with_the_secret(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    async def redirect(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect(f"{issuer.issuer}/token")

    app = web.Application()
    app.router.add_post("/token", redirect)
    async with TestServer(app) as server:
        issuer.metadata = {"token_endpoint": f"http://127.0.0.1:{server.port}/token"}
        with pytest.raises(ProviderUnavailableError):
            await subject(provider, attempt)
    assert issuer.forms == []


@pytest.mark.parametrize(
    ("named", "groups"),
    [
        (["staff", "ops", 7], {"staff", "ops"}),
        ("ops", {"ops"}),
        ({"ops": True}, set()),
        (None, set()),
    ],
)
async def test_groups_are_a_list_or_one_text(
    issuer: Issuer, provider: Provider, attempt: Attempt, named: Any, groups: set[str]
) -> None:
    issuer.answer(issuer.claims(attempt, groups=named))
    identity = await provider.identity(attempt, {"code": "c"}, REDIRECT)
    assert identity.groups == groups


async def test_an_attempt_counts_once(issuer: Issuer, provider: Provider, attempt: Attempt) -> None:
    issuer.answer(issuer.claims(attempt))
    await provider.identity(attempt, {"code": "c"}, REDIRECT)
    with pytest.raises(SignInError, match="was already used"):
        await provider.identity(attempt, {"code": "c"}, REDIRECT)
    assert len(issuer.forms) == 1


async def test_wrong_settings_are_told_to_admins_and_not_called_passing(
    issuer: Issuer, provider: Provider, attempt: Attempt
) -> None:
    issuer.metadata = {"issuer": f"{issuer.issuer}/"}
    with pytest.raises(ProviderUnavailableError, match="not configured correctly; tell an admin"):
        await provider.authorization_url(attempt, REDIRECT)
    assert await provider.problem() == (
        f"Nobody can sign in at {issuer.issuer}: it calls itself {issuer.issuer}/, not "
        f"{issuer.issuer}: set issuer to {issuer.issuer}/."
    )
