"""Where the values of the settings come from.

Strongest first: command line, environment, TOML file, default.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.settings.model import (
    ACCOUNT_SETTINGS,
    SETTINGS,
    AccountSettings,
    Settings,
    default_data_dir,
)
from proxy.settings.table import (
    CLOUD_PREFIX,
    PREFIX,
    ConfigError,
    InvalidValueError,
    Setting,
    checked,
)

#: Two ways to say the same: the stronger source silences both forms of the weaker one.
_KEY_FORMS = frozenset({"api_key", "api_key_file"})


def load(options: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings. `options` are those given on the command line, by setting name.

    Raises `ConfigError` for an unknown setting, a value that is not allowed and a file that
    cannot be read.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    _refuse_unknown_variables()
    environment = _environment()
    path = _config_path(given)
    document = {} if path is None else _usable_document(path)
    values = _beneath(document, environment | given) | _beneath(environment, given) | given
    tables = values.pop("accounts", [])
    try:
        found = checked(Settings, values)
    except InvalidValueError as error:
        raise ConfigError(_complaint(error.name, given, path)) from None
    found.setdefault("data_dir", default_data_dir(simulated=found.get("simulate", False)))
    settings = Settings(**found, accounts=_accounts(tables, path))
    _refuse_contradictions(settings.accounts, single_key=_single_key(settings, given), where=path)
    _refuse_contradictions_of_replicas(settings)
    return settings


def _single_key(settings: Settings, options: Mapping[str, Any]) -> str | None:
    """How the key of a single account is set, if it is."""
    for name in ("api_key", "api_key_file"):
        if getattr(settings, name) is not None:
            setting = next(row for row in SETTINGS if row.name == name)
            if name in options:
                return setting.option
            return setting.environment if name in _environment() else f"`{name}` in it"
    return None


def _environment() -> dict[str, str]:
    """The settings that the environment gives; an empty variable counts as not set."""
    found = {setting.name: setting.in_environment(os.environ) for setting in SETTINGS}
    return {name: one[1] for name, one in found.items() if one is not None}


def _by_present_name(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a file, where a name of an earlier release counts as the present one."""
    former = {setting.former: setting.name for setting in SETTINGS if setting.former}
    present = {name: value for name, value in values.items() if name not in former}
    return {former[name]: value for name, value in values.items() if name in former} | present


def _beneath(values: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    hidden = _KEY_FORMS if _KEY_FORMS & stronger.keys() else frozenset()
    return {name: value for name, value in values.items() if name not in hidden}


def _config_path(options: Mapping[str, Any]) -> Path | None:
    value = options.get("config") or _environment().get("config")
    return Path(value).expanduser() if value else None


def _read_document(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(
            f"The settings file {path} cannot be read ({error.strerror}): "
            "correct the path given by --config or COMFY_PROXY_CONFIG."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {path} is not TOML: correct it ({error}).") from None


def _usable_document(path: Path) -> dict[str, Any]:
    """The settings of a file by their present names. Raises `ConfigError` for an unknown one."""
    known = [*(setting.key for setting in SETTINGS if setting.key), "accounts"]
    document = _by_present_name(_read_document(path))
    for name in document:
        if name not in known:
            raise ConfigError(
                f"The settings file {path} has `{name}`, which is not a setting: "
                f"{_remedy(name, known)}."
            )
    return document


def _refuse_unknown_variables() -> None:
    known = [setting.environment for setting in SETTINGS]
    accepted = {name for setting in SETTINGS for name in setting.environments}
    for name in sorted(os.environ):
        if name.startswith((PREFIX, CLOUD_PREFIX)) and name not in accepted:
            raise ConfigError(
                f"The environment variable {name} is not a setting: {_remedy(name, known)}."
            )


def _remedy(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"remove it, or write {near[0]}" if near else "remove it"


def _complaint(name: str, options: Mapping[str, Any], path: Path | None) -> str:
    setting = next(row for row in SETTINGS if row.name == name)
    where, value = _origin(setting, options, path)
    shown = "" if setting.secret else f" is {_short(value)}, but"
    return f"{where}{shown} must be {setting.expects}."


def _origin(setting: Setting, options: Mapping[str, Any], path: Path | None) -> tuple[str, object]:
    if setting.name in options:
        return setting.option or setting.name, options[setting.name]
    if (found := setting.in_environment(os.environ)) is not None:
        return found
    document = _read_document(path) if path is not None else {}
    name = setting.name if setting.name in document else setting.former or setting.name
    return f"`{name}` in {path}", document.get(name)


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _refuse_contradictions(
    accounts: Sequence[AccountSettings], *, single_key: str | None, where: Path | None
) -> None:
    """Raise `ConfigError` for tables that are right each by itself, but not together.

    `single_key` is how a key outside of the tables is set, if one is.
    """
    seen: set[str] = set()
    for account in accounts:
        the = f"The account {account.name} in {where}"
        if account.name in seen:
            raise ConfigError(f"{the} is not unique: give each account its own name.")
        seen.add(account.name)
        if account.key is not None and account.key_file is not None:
            raise ConfigError(f"{the} has key and key_file: remove one of them, preferably key.")
        if account.key is None and account.key_file is None:
            raise ConfigError(f"{the} has no key: add key_file.")
        if account.plan is not None and account.slots:
            raise ConfigError(f"{the} has plan and slots: remove one of them.")
    if accounts and single_key is not None:
        raise ConfigError(
            f"There are accounts in {where} and a separate key: unset {single_key}, or add an "
            "account for that key."
        )


def _refuse_contradictions_of_replicas(settings: Settings) -> None:
    if settings.database is not None and settings.bus is None:
        raise ConfigError(
            "The database is PostgreSQL, but there is no bus between the replicas: set "
            "COMFY_PROXY_BUS to redis://HOST of a Valkey or Redis server."
        )
    if settings.database is None and settings.database_direct is not None:
        raise ConfigError(
            "database_direct is set and database is not: set COMFY_PROXY_DATABASE too."
        )


def _accounts(tables: object, where: Path | None) -> tuple[AccountSettings, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(
            f"`accounts` in {where} must be tables: begin each with a line [[accounts]]."
        )
    accounts = []
    for number, table in enumerate(tables, start=1):
        try:
            accounts.append(AccountSettings(**checked(AccountSettings, {"name": None} | table)))
        except InvalidValueError as error:
            raise ConfigError(_account_complaint(error.name, number, table, where)) from None
    return tuple(accounts)


def _account_complaint(key: str, number: int, table: Mapping[str, Any], where: Path | None) -> str:
    """What to say of a key of the account of this number."""
    name = table.get("name")
    the = f"account {name if isinstance(name, str) and name else number} in {where}"
    known = {row.name: row for row in ACCOUNT_SETTINGS}
    if key not in known:
        return (
            f"The {the} has `{key}`, which is not a setting of accounts: remove it, or use one of "
            f"{', '.join(known)}."
        )
    if key not in table:
        return f"The {the} has no {key}: add {key} = {known[key].example!r}."
    shown = "" if known[key].secret else f" is {_short(table[key])}, but"
    return f"`{key}` of the {the}{shown} must be {known[key].expects}."
