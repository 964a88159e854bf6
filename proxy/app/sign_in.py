"""The ways to sign in that the settings name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.api.header_sign_in import HeaderSignIn
from proxy.logging import register_secret
from proxy.members.directory import Directory
from proxy.members.member import UnknownMemberError
from proxy.members.provisioning import ProvisioningRules
from proxy.settings import ConfigError, ProviderSettings, Settings, record_options
from proxy.sign_in.provider import CheckableProvider, ProviderOptions, SignInProvider
from proxy.storage.database import Database
from proxy.storage.leases import LeaseRepository

if TYPE_CHECKING:
    from proxy.sign_in.client import ProviderClient


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
    async with _clients(settings) as clients:
        if not clients:
            yield {}
            return
        from proxy.sign_in.openid import Provider  # authlib is not installed everywhere

        uses = LeaseRepository(database)
        yield {
            provider.name: Provider(client, _rules(settings, provider.admin_groups), uses)
            for provider, client in zip(settings.providers, clients, strict=True)
        }


async def sign_in_problems(providers: Iterable[CheckableProvider]) -> list[tuple[str, str | None]]:
    """Return each provider by its name, with what is wrong with it."""
    listed = list(providers)
    problems = await asyncio.gather(*(provider.problem() for provider in listed))
    return [(each.options.name, found) for each, found in zip(listed, problems, strict=True)]


async def check_providers(settings: Settings) -> list[tuple[str, str | None]]:
    """Return each provider of the settings, with what is wrong with it. Raises `ConfigError`."""
    async with _clients(settings) as clients:
        return await sign_in_problems(clients)


def template_problem(settings: Settings, members: Directory) -> str | None:
    """Return in a sentence that the member whose limits new members get does not exist."""
    name = settings.sign_in_template
    if name is None or not settings.provisions_members:
        return None
    try:
        members.find(name)
    except UnknownMemberError:
        return (
            f"The member {name}, whose limits new members get, does not exist: add it with "
            f"comfy-cloud-proxy member add {name}{record_options(settings)}, or correct "
            "sign_in_template."
        )
    return None


@asynccontextmanager
async def _clients(settings: Settings) -> AsyncIterator[Sequence[ProviderClient]]:
    """Open a client of each provider. Raises `ConfigError`."""
    if not settings.providers:
        yield ()
        return
    try:
        from proxy.sign_in.client import ProviderClient  # authlib is not installed everywhere
    except ImportError as error:
        raise ConfigError(
            f"Sign-in at providers needs the extra `sign-in` ({error}): install it with pip "
            "install '.[sign-in]', or for the image with --build-arg EXTRAS=sign-in."
        ) from None
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(ProviderClient(_options(provider)))
            for provider in settings.providers
        ]


def _rules(settings: Settings, admin_groups: tuple[str, ...]) -> ProvisioningRules:
    return ProvisioningRules(settings.sign_in_template or "", frozenset(admin_groups))


def _options(provider: ProviderSettings) -> ProviderOptions:
    return ProviderOptions(
        name=provider.name,
        issuer=provider.issuer,
        client_id=provider.client_id,
        client_secret=_secret(provider.client_secret_file),
        scopes=provider.scopes,
        groups_claim=provider.groups_claim,
        domains=frozenset(domain.lower() for domain in provider.domains),
        unverified_email=provider.unverified_email,
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
