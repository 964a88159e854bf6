"""The arrays of tables of the settings file: `[[accounts]]` and `[[providers]]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct
from pydantic import SecretStr

from proxy.settings.fields import (
    AMOUNT_FORM,
    KEY_FORM,
    MAX_AMOUNT,
    Setting,
    SettingsTable,
    rows_of,
    setting,
)
from proxy.settings.values import HomePath, Issuer, Names, WebAddress

#: Jobs at once by plan.
PLANS = {"standard": 1, "creator": 3, "pro": 5, "team": 25}


class AccountSettings(SettingsTable):
    """One table of `[[accounts]]`, checked."""

    name: str = setting(
        ...,
        "Accounts",
        "The account's name in logs, lists and metrics. Do not change it: the files and jobs of "
        "the account are stored under this name.",
        expects="a name of at most 32 letters, digits, `.`, `_` and `-` that no other account has",
        example="studio",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$",
    )
    key_file: HomePath | None = setting(
        None,
        "Accounts",
        "A file that contains only the account's API key; the recommended form. The proxy reloads "
        "it when it changes and on SIGHUP.",
        example="/run/secrets/comfy_cloud_studio",
    )
    key: SecretStr | None = setting(
        None,
        "Accounts",
        "The API key itself, instead of `key_file`. Anyone who can read the settings file can "
        "read it, so prefer `key_file`. Reloaded on SIGHUP.",
        expects=KEY_FORM,
        example="comfyui-...",
    )
    kind: Literal["cloud", "deployment"] = setting(
        "cloud",
        "Accounts",
        "What the account is: one of Comfy Cloud, or a deployment with your own nodes and models. "
        "A deployment needs `base_url` and `object_info`.",
        example="deployment",
    )
    object_info: str | None = setting(
        None,
        "Accounts",
        "The list of nodes of a deployment, which has none itself: a file with the answer of "
        "`GET /object_info`, or the address of a ComfyUI with the same nodes.",
        expects="a file, or the address of a ComfyUI such as http://127.0.0.1:8188",
        example="object_info.json",
    )
    plan: Literal["standard", "creator", "pro", "team"] | None = setting(
        None,
        "Accounts",
        "The account's plan, which determines how many jobs it runs at once: standard 1, creator "
        "3, pro 5, team 25. Use it instead of `slots`.",
        example="creator",
    )
    slots: int = setting(
        0,
        "Accounts",
        "How many jobs the account runs at once. With 0 the proxy reads the limit from the "
        "account, or discovers it.",
        ge=0,
        le=1000,
    )
    weight: float = setting(
        1.0,
        "Accounts",
        "Among accounts with a free slot, one with twice the weight gets twice the jobs.",
        gt=0,
        le=1000,
    )
    credits_per_second: float | None = setting(
        None,
        "Accounts",
        "What a second of a job on the account costs, in credits.",
        expects=AMOUNT_FORM,
        shown="the setting credits_per_second",
        example=0.27,
        ge=0,
        le=MAX_AMOUNT,
    )
    members: tuple[str, ...] = setting(
        (),
        "Accounts",
        "Names of the members whose jobs may run on the account. The default is all members.",
        expects="a list of names of members",
    )
    base_url: WebAddress | None = setting(
        None,
        "Accounts",
        "The address of the account's cloud, if it differs from the setting `base_url`, or of the "
        "deployment.",
        shown="the setting base_url",
        example="https://cloud.comfy.org",
    )

    @property
    def jobs_at_once(self) -> int:
        """How many jobs it runs at once, 0 if nobody says so."""
        return self.slots if self.plan is None else PLANS[self.plan]


#: The keys of a table in the order in which they are documented.
ACCOUNT_SETTINGS = rows_of(AccountSettings)


class ProviderSettings(SettingsTable):
    """One table of `[[providers]]`, checked."""

    name: str = setting(
        ...,
        "Providers",
        "The provider's name in the redirect URI `/proxy/sign-in/NAME/callback`, which the "
        "provider must know.",
        expects="a name of at most 32 small letters, digits and `-` that no other provider has",
        example="company",
        pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
    )
    issuer: Issuer = setting(
        ...,
        "Providers",
        "The issuer. Its metadata are read from `/.well-known/openid-configuration` below it.",
        expects="an https address, exactly as the provider names itself",
        example="https://login.example.com",
    )
    client_id: str = setting(
        ...,
        "Providers",
        "The id that the provider has given to this server.",
        example="comfy",
    )
    client_secret_file: HomePath | None = setting(
        None,
        "Providers",
        "A file that contains only the secret that the provider has given to this server. Without "
        "one it is a public client.",
        example="/run/secrets/oidc_company",
    )
    label: str = setting(
        "",
        "Providers",
        "The provider's name on the sign-in page.",
        shown="the name",
        example="Example Ltd",
    )
    scopes: Names = setting(
        ("openid", "email", "profile"),
        "Providers",
        "What to ask the provider for. Some name groups only with a scope such as `groups`.",
        expects="a list of scopes",
    )
    domains: Names = setting(
        (),
        "Providers",
        "Only people with a verified e-mail address of one of these domains can sign in. Set it "
        "for providers where anybody can have an account.",
        expects="a list of domains such as example.com",
    )
    unverified_email: bool = setting(
        False,
        "Providers",
        "Let an e-mail address count for `domains` if the provider does not say whether it is "
        "verified, as Microsoft Entra does not. Set it only where people cannot choose the address "
        "themselves.",
    )
    groups_claim: str = setting(
        "groups",
        "Providers",
        "The claim with the groups of a person.",
    )
    groups: Names = setting(
        (),
        "Providers",
        "Only people in one of these groups can sign in.",
        expects="a list of names of groups",
    )
    admin_groups: Names = setting(
        (),
        "Providers",
        "Groups whose people are admins. With it, those who sign in are admins if they are in one "
        "of these groups, and users if not.",
        expects="a list of names of groups",
    )


#: The keys of such a table in the order in which they are documented.
PROVIDER_SETTINGS = rows_of(ProviderSettings)


class ArrayOfTables(Struct, frozen=True):
    """What tables of one kind are: their key in the file, one of them, and its settings."""

    key: str
    noun: str
    rows: Sequence[Setting]

    def complaint(self, location: Sequence[int | str], tables: Any, where: Path | None) -> str:
        """Return a sentence about what is wrong at a location in the tables: the number of a table,
        and a key of it."""
        if len(location) < 2:
            return f"`{self.key}` in {where} must be tables: begin each with a line [[{self.key}]]."
        number, key, *_ = location
        table: Mapping[str, Any] = tables[number]
        name = table.get("name")
        shown = name if isinstance(name, str) and name else int(number) + 1
        the = f"{self.noun} {shown} in {where}"
        known = {row.name: row for row in self.rows}
        if key not in known:
            return (
                f"The {the} has `{key}`, which is not a setting of {self.key}: remove it, or use "
                f"one of {', '.join(known)}."
            )
        row = known[str(key)]
        if key not in table:
            return f"The {the} has no {key}: add {key} = {row.example!r}."
        return row.complaint(f"`{key}` of the {the}", table[row.name])


ARRAYS = (
    ArrayOfTables("accounts", "account", ACCOUNT_SETTINGS),
    ArrayOfTables("providers", "provider", PROVIDER_SETTINGS),
)
