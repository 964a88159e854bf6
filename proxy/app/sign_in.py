"""The ways to sign in that the settings name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.api.header_sign_in import HeaderSignIn
from proxy.logging import register_secret
from proxy.members.provisioning import ProvisioningRules
from proxy.settings import ConfigError, ProviderSettings, Settings
from proxy.sign_in.provider import ProviderOptions, SignInProvider
from proxy.storage.database import Database
from proxy.storage.leases import LeaseRepository


def header_sign_in(settings: Settings) -> HeaderSignIn | None:
    """Return how a reverse proxy signs people in. Raises `ConfigError`."""
    if settings.sign_in_header is None:
        if settings.sign_in_groups_header is not None:
            raise ConfigError("sign_in_groups_header is set and sign_in_header is not: set both.")
        return None
    if settings.sign_in_admin_groups and settings.sign_in_groups_header is None:
        raise ConfigError(
            "sign_in_admin_groups is set and sign_in_groups_header is not: set both, because "
            "nobody is an admin without groups."
        )
    if not settings.trusted_proxies:
        raise ConfigError(
            "sign_in_header is set and trusted_proxies is not: set trusted_proxies to the address "
            "of the reverse proxy that signs people in, because anybody else can send this header."
        )
    rules = _rules(settings, settings.sign_in_admin_groups)
    return HeaderSignIn(settings.sign_in_header, settings.sign_in_groups_header, rules)


@asynccontextmanager
async def open_providers(
    settings: Settings, database: Database
) -> AsyncIterator[Mapping[str, SignInProvider]]:
    """Open the providers of OpenID Connect, by their names. Raises `ConfigError`."""
    if not settings.providers:
        yield {}
        return
    try:
        from proxy.sign_in.openid import (  # authlib is not installed everywhere
            Provider,
            open_session,
        )
    except ImportError as error:
        raise ConfigError(
            f"Sign-in at providers needs the extra `sign-in` ({error}): install it with pip "
            "install '.[sign-in]'."
        ) from None
    uses = LeaseRepository(database)
    async with open_session() as session:
        yield {
            provider.name: Provider(
                _options(provider), _rules(settings, provider.admin_groups), session, uses
            )
            for provider in settings.providers
        }


def _rules(settings: Settings, admin_groups: tuple[str, ...]) -> ProvisioningRules:
    return ProvisioningRules(settings.sign_in_template or "", frozenset(admin_groups))


def _options(provider: ProviderSettings) -> ProviderOptions:
    return ProviderOptions(
        name=provider.name,
        label=provider.label or provider.name,
        issuer=provider.issuer,
        client_id=provider.client_id,
        client_secret=_secret(provider.client_secret_file),
        scopes=provider.scopes,
        groups_claim=provider.groups_claim,
        domains=frozenset(domain.lower() for domain in provider.domains),
        groups=frozenset(provider.groups),
    )


def _secret(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The client secret in {path} cannot be read ({error}): correct client_secret_file."
        ) from None
    if not secret:
        raise ConfigError(f"The file {path} has no client secret: write it there.")
    register_secret(secret)
    return secret
