"""The arrays of tables of the settings file: `[[accounts]]` and `[[providers]]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import NODEFAULT, Meta, Struct
from yarl import URL

from proxy.settings.table import (
    AMOUNT_FORM,
    KEY_FORM,
    ConfigError,
    InvalidValueError,
    Secret,
    Setting,
    checked,
    complaint,
    rows_of,
    to_amount,
    to_issuer,
    to_names,
)

#: Jobs at once by plan.
PLANS = {"standard": 1, "creator": 3, "pro": 5, "team": 25}


class AccountSettings(Struct, frozen=True, kw_only=True):
    """One table of `[[accounts]]`, checked."""

    name: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z"),
        Setting(
            "Accounts",
            expects="a name of at most 32 letters, digits, `.`, `_` and `-` that no other account "
            "has",
            example="studio",
        ),
    ]
    """The account's name in logs, lists and metrics. Do not change it: the files and jobs of the
    account are stored under this name."""

    key_file: Annotated[
        Path | None, Setting("Accounts", example="/run/secrets/comfy_cloud_studio")
    ] = None
    """A file that contains only the account's API key; the recommended form. The proxy reloads it
    when it changes and on SIGHUP."""

    key: Annotated[
        Secret | None, Setting("Accounts", expects=KEY_FORM, secret=True, example="comfyui-...")
    ] = None
    """The API key itself, instead of `key_file`. Anyone who can read the settings file can read it,
    so prefer `key_file`. Reloaded on SIGHUP."""

    plan: Annotated[
        Literal["standard", "creator", "pro", "team"] | None, Setting("Accounts", example="creator")
    ] = None
    """The account's plan, which determines how many jobs it runs at once: standard 1, creator 3,
    pro 5, team 25. Use it instead of `slots`."""

    slots: Annotated[int, Meta(ge=0, le=1000), Setting("Accounts")] = 0
    """How many jobs the account runs at once. With 0 the proxy reads the limit from the account, or
    discovers it."""

    weight: Annotated[float, Meta(gt=0, le=1000), Setting("Accounts")] = 1.0
    """Among accounts with a free slot, one with twice the weight gets twice the jobs."""

    credits_per_second: Annotated[
        float | None,
        Setting(
            "Accounts",
            expects=AMOUNT_FORM,
            shown="the setting credits_per_second",
            example=0.27,
            read=to_amount,
        ),
    ] = None
    """What a second of a job on the account costs, in credits."""

    members: Annotated[
        tuple[str, ...], Setting("Accounts", expects="a list of names of members")
    ] = ()
    """Names of the members whose jobs may run on the account. The default is all members."""

    base_url: Annotated[
        URL | None,
        Setting("Accounts", shown="the setting base_url", example="https://cloud.comfy.org"),
    ] = None
    """The address of the account's cloud, if it differs from the setting `base_url`. The list of
    nodes and models comes from the first account that answers."""

    @property
    def jobs_at_once(self) -> int:
        """How many jobs it runs at once, 0 if nobody says so."""
        return self.slots if self.plan is None else PLANS[self.plan]


#: The keys of a table in the order in which they are documented.
ACCOUNT_SETTINGS = tuple(rows_of(AccountSettings))


class ProviderSettings(Struct, frozen=True, kw_only=True):
    """One table of `[[providers]]`, checked."""

    name: Annotated[
        str,
        Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z"),
        Setting(
            "Providers",
            expects="a name of at most 32 small letters, digits and `-` that no other provider has",
            example="company",
        ),
    ]
    """The provider's name in the redirect URI `/proxy/sign-in/NAME/callback`, which the provider
    must know."""

    issuer: Annotated[
        str,
        Setting(
            "Providers",
            expects="an https address, exactly as the provider names itself",
            example="https://login.example.com",
            read=to_issuer,
        ),
    ]
    """The issuer. Its metadata are read from `/.well-known/openid-configuration` below it."""

    client_id: Annotated[str, Setting("Providers", example="comfy")]
    """The id that the provider has given to this server."""

    client_secret_file: Annotated[
        Path | None, Setting("Providers", example="/run/secrets/oidc_company")
    ] = None
    """A file that contains only the secret that the provider has given to this server. Without one
    it is a public client."""

    label: Annotated[str, Setting("Providers", shown="the name", example="Example Ltd")] = ""
    """The provider's name on the sign-in page."""

    scopes: Annotated[
        tuple[str, ...], Setting("Providers", expects="a list of scopes", read=to_names)
    ] = ("openid", "email", "profile")
    """What to ask the provider for. Some name groups only with a scope such as `groups`."""

    domains: Annotated[
        tuple[str, ...],
        Setting("Providers", expects="a list of domains such as example.com", read=to_names),
    ] = ()
    """Only people with a verified e-mail address of one of these domains can sign in. Set it for
    providers where anybody can have an account."""

    groups_claim: Annotated[str, Setting("Providers")] = "groups"
    """The claim with the groups of a person."""

    groups: Annotated[
        tuple[str, ...], Setting("Providers", expects="a list of names of groups", read=to_names)
    ] = ()
    """Only people in one of these groups can sign in."""

    admin_groups: Annotated[
        tuple[str, ...], Setting("Providers", expects="a list of names of groups", read=to_names)
    ] = ()
    """Groups whose people are admins. With it, those who sign in are admins if they are in one of
    these groups, and users if not."""


#: The keys of such a table in the order in which they are documented.
PROVIDER_SETTINGS = tuple(rows_of(ProviderSettings))


_Table = TypeVar("_Table", AccountSettings, ProviderSettings)


@dataclass(frozen=True, slots=True)
class ArrayOfTables(Generic[_Table]):
    """What tables of one kind are: their key in the file, one of them, and its settings."""

    key: str
    noun: str
    kind: type[_Table]
    rows: Sequence[Setting]

    def read(self, tables: object, where: Path | None) -> tuple[_Table, ...]:
        """Return the tables, checked. Raises `ConfigError`."""
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise ConfigError(
                f"`{self.key}` in {where} must be tables: begin each with a line [[{self.key}]]."
            )
        found = []
        for number, table in enumerate(tables, start=1):
            needed = {row.name: None for row in self.rows if row.default is NODEFAULT}
            try:
                found.append(self.kind(**checked(self.kind, needed | table)))
            except InvalidValueError as error:
                raise ConfigError(self._complaint(error.name, number, table, where)) from None
        names = [table.name for table in found]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"The {self.noun} {name} in {where} is not unique: give each {self.noun} its "
                    "own name."
                )
        return tuple(found)

    def _complaint(
        self, key: str, number: int, table: Mapping[str, Any], where: Path | None
    ) -> str:
        """Return the complaint about a key of the table with this number."""
        name = table.get("name")
        the = f"{self.noun} {name if isinstance(name, str) and name else number} in {where}"
        known = {row.name: row for row in self.rows}
        if key not in known:
            return (
                f"The {the} has `{key}`, which is not a setting of {self.key}: remove it, or use "
                f"one of {', '.join(known)}."
            )
        if key not in table:
            return f"The {the} has no {key}: add {key} = {known[key].example!r}."
        return complaint(known[key], f"`{key}` of the {the}", table[key])


ACCOUNTS = ArrayOfTables("accounts", "account", AccountSettings, ACCOUNT_SETTINGS)
PROVIDERS = ArrayOfTables("providers", "provider", ProviderSettings, PROVIDER_SETTINGS)
