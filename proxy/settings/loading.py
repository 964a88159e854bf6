"""Where the values of the settings come from.

Strongest first: command line, environment, TOML file, default.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from proxy.settings.arrays import ACCOUNTS, PROVIDERS
from proxy.settings.model import SETTINGS, Settings, default_data_dir
from proxy.settings.table import (
    CLOUD_PREFIX,
    PREFIX,
    ConfigError,
    InvalidValueError,
    checked,
    complaint,
)

#: Values by the names of their settings, each after the words for where it is written.
_Source: TypeAlias = dict[str, tuple[str, Any]]

_OPTIONS = {row.name: row.option for row in SETTINGS}
_UNSET = ("", None)
#: Two ways to say the same: the stronger source silences both forms of the weaker one.
_KEY_FORMS = ("api_key", "api_key_file")


class LoadedSettings(NamedTuple):
    """The settings, and where each that is not a default is written, by its name."""

    settings: Settings
    sources: Mapping[str, str]


def load(options: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings. Raises `ConfigError` as `load_with_sources`."""
    return load_with_sources(options).settings


def load_with_sources(options: Mapping[str, Any] | None = None) -> LoadedSettings:
    """Read the settings. `options` are those given on the command line, by setting name.

    Raises `ConfigError` for an unknown setting, a value that is not allowed and a file that
    cannot be read.
    """
    _refuse_unknown_variables()
    given: _Source = {
        name: (_OPTIONS.get(name) or name, value)
        for name, value in (options or {}).items()
        if value is not None
    }
    environment: _Source = {
        row.name: (row.environment, value)
        for row in SETTINGS
        if (value := row.in_environment(os.environ)) is not None
    }
    config = given.get("config", _UNSET)[1] or environment.get("config", _UNSET)[1]
    path = Path(config).expanduser() if config else None
    document = {} if path is None else _document(path)
    values = _beneath(document, environment | given) | _beneath(environment, given) | given
    sources = {name: where for name, (where, _) in values.items()}
    _, accounts = values.pop(ACCOUNTS.key, ("", []))
    _, providers = values.pop(PROVIDERS.key, ("", []))
    try:
        fields = checked(Settings, {name: value for name, (_, value) in values.items()})
    except InvalidValueError as error:
        row = next(row for row in SETTINGS if row.name == error.name)
        raise ConfigError(complaint(row, *values[row.name])) from None
    if "data_dir" not in fields:
        fields["data_dir"] = default_data_dir(simulated=fields.get("simulate", False))
    settings = Settings(
        **fields,
        accounts=ACCOUNTS.read(accounts, path),
        providers=PROVIDERS.read(providers, path),
    )
    single_key = next((values[name][0] for name in _KEY_FORMS if name in values), None)
    _refuse_contradictions(settings, path, single_key)
    return LoadedSettings(settings, sources)


def _beneath(values: _Source, stronger: _Source) -> _Source:
    hidden = _KEY_FORMS if stronger.keys() & set(_KEY_FORMS) else ()
    return {name: value for name, value in values.items() if name not in hidden}


def _document(path: Path) -> _Source:
    """Return the settings of a file. Raises `ConfigError` for one that cannot be read or is
    unknown."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigError(
            f"The settings file {path} cannot be read ({error.strerror}): "
            "correct the path given by --config or COMFY_PROXY_CONFIG."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {path} is not TOML: correct it ({error}).") from None
    known = [*(row.key for row in SETTINGS if row.key), ACCOUNTS.key, PROVIDERS.key]
    found: _Source = {}
    for name, value in document.items():
        if name not in known:
            raise ConfigError(
                f"The settings file {path} has `{name}`, which is not a setting: "
                f"{_remedy(name, known)}."
            )
        found[name] = f"`{name}` in {path}", value
    return found


def _refuse_unknown_variables() -> None:
    known = [row.environment for row in SETTINGS]
    for name in sorted(os.environ):
        if name.startswith((PREFIX, CLOUD_PREFIX)) and name not in known:
            raise ConfigError(
                f"The environment variable {name} is not a setting: {_remedy(name, known)}."
            )


def _remedy(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"remove it, or write {near[0]}" if near else "remove it"


def _refuse_contradictions(settings: Settings, where: Path | None, single_key: str | None) -> None:
    """Raise `ConfigError` for values that are right each by itself, but not together.

    `single_key` is how a key outside of the tables is set, if one is.
    """
    for account in settings.accounts:
        the = f"The account {account.name} in {where}"
        if account.key is not None and account.key_file is not None:
            raise ConfigError(f"{the} has key and key_file: remove one of them, preferably key.")
        if account.key is None and account.key_file is None:
            raise ConfigError(f"{the} has no key: add key_file.")
        if account.plan is not None and account.slots:
            raise ConfigError(f"{the} has plan and slots: remove one of them.")
    if settings.accounts and single_key is not None:
        raise ConfigError(
            f"There are accounts in {where} and a separate key: unset "
            f"{single_key.replace(f'in {where}', 'in it')}, or add an account for that key."
        )
    if settings.database is not None and settings.bus is None:
        raise ConfigError(
            "The database is PostgreSQL, but there is no bus between the replicas: set "
            "COMFY_PROXY_BUS to redis://HOST of a Valkey or Redis server."
        )
    if settings.database is None and settings.database_direct is not None:
        raise ConfigError(
            "database_direct is set and database is not: set COMFY_PROXY_DATABASE too."
        )
