"""The accounts: their tables in the settings file, and the keys that they are used with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, SecretStr
from yarl import URL

from proxy.settings.table import STRICT, ConfigError, Entry, entries, to_lower, to_path, to_url

#: The account of a key that is set by itself, without any table.
DEFAULT = "default"

#: Jobs at once by plan.
PLANS = {"standard": 1, "creator": 3, "pro": 5}

_GROUP = "Accounts"


class AccountSettings(BaseModel):
    """One table of `[[accounts]]`, checked."""

    model_config = STRICT

    name: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$"),
        Entry(
            group=_GROUP,
            help="How the account is called in logs, lists and metrics. Keep it: the files and "
            "jobs of the account are found by it.",
            expects="a name of at most 32 letters, digits, `.`, `_` and `-` that no other account "
            "has",
            example="studio",
        ),
    ]
    key_file: Annotated[
        Path | None,
        BeforeValidator(to_path),
        Entry(
            group=_GROUP,
            help="A file that holds nothing but the account's API key; the recommended form. It "
            "is read again when it changes and on SIGHUP.",
            expects="the path of a file that can be read",
            example="/run/secrets/comfy_cloud_studio",
        ),
    ] = None
    key: Annotated[
        SecretStr | None,
        Entry(
            group=_GROUP,
            help="The API key itself, in place of `key_file`. Whoever can read this file has it "
            "then, so prefer the file form. Read again on SIGHUP.",
            expects="one line of printable characters without spaces",
            secret=True,
            example="comfyui-...",
        ),
    ] = None
    plan: Annotated[
        Literal["standard", "creator", "pro"] | None,
        BeforeValidator(to_lower),
        Entry(
            group=_GROUP,
            help="The account's plan, which says how many jobs it runs at once: standard 1, "
            "creator 3, pro 5. In place of `slots`.",
            expects="one of standard, creator, pro",
            example="creator",
        ),
    ] = None
    slots: Annotated[
        int,
        Field(ge=0, le=1000, strict=True),
        Entry(
            group=_GROUP,
            help="How many jobs the account runs at once; 0 learns it from what the account does.",
            expects="a whole number from 0 to 1000",
        ),
    ] = 0
    weight: Annotated[
        float,
        Field(gt=0, le=1000),
        Entry(
            group=_GROUP,
            help="Among accounts with a free slot, one with twice the weight gets twice the jobs.",
            expects="a number greater than 0, at most 1000",
        ),
    ] = 1.0
    members: Annotated[
        tuple[str, ...],
        Entry(
            group=_GROUP,
            help="The names of the members whose jobs may run on the account; none named is "
            "everybody.",
            expects="a list of names of members",
        ),
    ] = ()
    base_url: Annotated[
        URL | None,
        BeforeValidator(to_url),
        Entry(
            group=_GROUP,
            help="Where the account's cloud answers, if that differs from the setting `base_url`. "
            "The list of nodes and models is that of the first account that answers, whatever the "
            "clouds of the others have.",
            expects="an address such as https://cloud.comfy.org, without user, query or fragment",
            shown="the setting base_url",
            example="https://cloud.comfy.org",
        ),
    ] = None


#: The keys of a table in the order in which they are documented.
ACCOUNT_ENTRIES: tuple[tuple[str, Entry], ...] = tuple(entries(AccountSettings))


@dataclass(frozen=True, slots=True)
class AccountAccess:
    """An account as it is used: where it is, its key, and what may run on it.

    `slots` is how many jobs it runs at once, 0 if that is to be learnt; `members` whose jobs it
    takes, none named is everybody. `plain_http` lets the key go to public addresses over http.
    """

    name: str
    base_url: URL
    key: str = field(repr=False)
    slots: int = 0
    weight: float = 1.0
    members: tuple[str, ...] = ()
    plain_http: bool = False


def slots_of(account: AccountSettings) -> int:
    """How many jobs an account runs at once, 0 if nobody says so."""
    return account.slots if account.plan is None else PLANS[account.plan]


def refuse_contradictions(
    accounts: Sequence[AccountSettings], *, single_key: str | None, where: Path | None
) -> None:
    """Raise `ConfigError` for tables that are right each by itself, but not together.

    `single_key` is how a key outside of the tables is set, if one is.
    """
    seen: set[str] = set()
    for account in accounts:
        the = f"The account {account.name} in {where}"
        if account.name in seen:
            raise ConfigError(f"{the} is there twice: give each account a name of its own.")
        seen.add(account.name)
        if account.key is not None and account.key_file is not None:
            raise ConfigError(f"{the} has key and key_file: keep one of them, best key_file.")
        if account.key is None and account.key_file is None:
            raise ConfigError(
                f"{the} has no key: add key_file with the path of a file that has it."
            )
        if account.plan is not None and account.slots:
            raise ConfigError(f"{the} has plan and slots: keep one of them.")
    if accounts and single_key is not None:
        raise ConfigError(
            f"There are accounts in {where} and a key beside them: unset {single_key}, or give "
            "that key an account of its own."
        )


def complaint(path: tuple[int | str, ...], document: Mapping[str, Any], where: Path | None) -> str:
    """What to say of the value at a place below `accounts` that cannot be used."""
    tables = document.get("accounts")
    if len(path) < 2 or not isinstance(tables, list) or not isinstance(path[1], int):
        return f"`accounts` in {where} must be tables: begin each with a line [[accounts]]."
    table = tables[path[1]]
    if len(path) < 3 or not isinstance(table, dict):
        return f"`accounts` in {where} must be tables: begin each with a line [[accounts]]."
    name, key = table.get("name"), str(path[2])
    the = f"account {name}" if isinstance(name, str) and name else f"account {path[1] + 1}"
    known = dict(ACCOUNT_ENTRIES)
    if key not in known:
        return (
            f"The {the} in {where} has `{key}`, which is not a setting of accounts: remove it, or "
            f"write one of {', '.join(known)}."
        )
    if key not in table:
        return f"The {the} in {where} has no {key}: add {key} = {known[key].example!r}."
    shown = "" if known[key].secret else f" is {_short(table[key])}, but"
    return f"`{key}` of the {the} in {where}{shown} must be {known[key].expects}."


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
