"""Settings of how people sign in, and of their providers: the tables `[[providers]]`."""

from __future__ import annotations

from proxy.settings.fields import SettingsTable, setting
from proxy.settings.values import Header, HomePath, Issuer, Names


class ProviderSettings(SettingsTable):
    """One table of `[[providers]]`."""

    group = "Providers"

    name: str = setting(
        ...,
        "The provider's name on the sign-in page and in the redirect URI "
        "`/proxy/sign-in/NAME/callback`, which the provider must know.",
        expects="a name of at most 32 small letters, digits and `-` that no other provider has",
        example="company",
        pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
    )
    issuer: Issuer = setting(
        ...,
        "The issuer. Its metadata are read from `/.well-known/openid-configuration` below it.",
        example="https://login.example.com",
    )
    client_id: str = setting(
        ...,
        "The id that the provider has given to this server.",
        example="comfy",
    )
    client_secret_file: HomePath | None = setting(
        None,
        "A file that contains only the secret that the provider has given to this server. Without "
        "one it is a public client.",
        example="/run/secrets/oidc_company",
    )
    scopes: Names = setting(
        ("openid", "email", "profile"),
        "What to ask the provider for. Some name groups only with a scope such as `groups`.",
        expects="a list of scopes",
    )
    domains: Names = setting(
        (),
        "Only people with a verified e-mail address of one of these domains can sign in. Set it "
        "for providers where anybody can have an account.",
        expects="a list of domains such as example.com",
    )
    unverified_email: bool = setting(
        False,
        "Let an e-mail address count for `domains` if the provider does not say whether it is "
        "verified, as Microsoft Entra does not. Set it only where people cannot choose the address "
        "themselves.",
    )
    groups_claim: str = setting(
        "groups",
        "The claim with the groups of a person.",
    )
    groups: Names = setting(
        (),
        "Only people in one of these groups can sign in.",
        expects="a list of names of groups",
    )
    admin_groups: Names = setting(
        (),
        "Groups whose people are admins. With it, those who sign in are admins if they are in one "
        "of these groups, and users if not.",
        expects="a list of names of groups",
    )


class SignInSettings(SettingsTable):
    """The settings under the heading Sign-in."""

    group = "Sign-in"

    sign_in_header: Header | None = setting(
        None,
        "The header in which a reverse proxy names the person whom it has signed in, such as "
        "`Remote-User` (Authelia), `X-Forwarded-User` (oauth2-proxy) or `Tailscale-User-Login`. "
        "It counts from `trusted_proxies` only. The first visit creates a member.",
        expects="the name of a header such as Remote-User",
        example="Remote-User",
    )
    sign_in_groups_header: Header | None = setting(
        None,
        "The header with the groups of this person, separated by commas.",
        expects="the name of a header such as Remote-Groups",
        example="Remote-Groups",
    )
    sign_in_admin_groups: Names = setting(
        (),
        "Groups whose people are admins. With it, those who sign in are admins if they are in one "
        "of these groups, and users if not.",
        expects="a list of names of groups",
    )
    sign_in_template: str | None = setting(
        None,
        "The member whose weight, parallelism and limits new members get. It may be disabled.",
        metavar="NAME",
        expects="the name of a member",
        example="template",
    )
    providers: tuple[ProviderSettings, ...] = ()

    @property
    def provisions_members(self) -> bool:
        """Whether people become members by signing in elsewhere."""
        return self.sign_in_header is not None or bool(self.providers)
