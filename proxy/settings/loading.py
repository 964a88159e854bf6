"""Reading the settings, and the sentences about what cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from proxy.settings.fields import ConfigError, rows_of
from proxy.settings.model import ARRAYS, SERVE_SETTINGS, Settings
from proxy.settings.sources import KEY_FORMS, sources_of

#: For sentences to people, which go to the standard error before logs are configured.
_person = logging.getLogger(__name__)

#: Values by the names of their settings, each after the words for where it is written.
_Written: TypeAlias = Mapping[str, tuple[str, Any]]

_ROWS = {row.name: row for row in SERVE_SETTINGS}


class LoadedSettings(NamedTuple):
    """The settings, and where each that is not a default is written, by its name."""

    settings: Settings
    sources: Mapping[str, str]


def load(options: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings. Raises `ConfigError` as `load_with_sources`."""
    return load_with_sources(options).settings


def load_with_sources(options: Mapping[str, Any] | None = None) -> LoadedSettings:
    """Read the settings. `options` are those given on the command line, by setting name.

    Raises `ConfigError` for an unknown setting, a value that is not allowed and a file that cannot
    be read.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        location = error.errors(include_url=False, include_context=False)[0]["loc"]
        raise ConfigError(_complaint(location, _written(given))) from None
    written = _written(given)
    sources = {name: written[name][0] for name in settings.model_fields_set}
    _refuse_contradictions(settings, sources)
    return LoadedSettings(settings, sources)


def _written(given: Mapping[str, Any]) -> _Written:
    """Return the strongest value of each setting that is written anywhere."""
    found: dict[str, tuple[str, Any]] = {}
    for source in sources_of(Settings, given):
        for name, value in source.values.items():
            found.setdefault(name, (source.place(name), value))
    return found


def _complaint(location: tuple[int | str, ...], written: _Written) -> str:
    """Return a sentence about what is wrong at a location in the settings."""
    name = str(location[0])
    where, value = written[name]
    if name in _ROWS:
        return _ROWS[name].complaint(where, value)
    file = Path(written["config"][1]).expanduser()
    if len(location) < 3:
        return f"`{name}` in {file} must be tables: begin each with a line [[{name}]]."
    return _table_complaint(name, location[1:], value, file)


def _table_complaint(
    array: str, location: tuple[int | str, ...], tables: Sequence[Mapping[str, Any]], file: Path
) -> str:
    """Return a sentence about what is wrong at a location in an array of tables: the number of a
    table, and a key of it."""
    number, key = int(location[0]), str(location[1])
    table = tables[number]
    name = table.get("name")
    the = f"{_singular(array)} {name if isinstance(name, str) and name else number + 1} in {file}"
    known = {row.name: row for row in rows_of(ARRAYS[array])}
    if key not in known:
        return (
            f"The {the} has `{key}`, which is not a setting of {array}: remove it, or use one of "
            f"{', '.join(known)}."
        )
    if key not in table:
        return f"The {the} has no {key}: add {key} = {known[key].example!r}."
    return known[key].complaint(f"`{key}` of the {the}", table[key])


def _singular(array: str) -> str:
    return array.removesuffix("s")


def _refuse_contradictions(settings: Settings, sources: Mapping[str, str]) -> None:
    """Raise `ConfigError` for values that are right each by itself, but not together."""
    where = settings.config
    for array in ARRAYS:
        noun, names = _singular(array), [table.name for table in getattr(settings, array)]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"The {noun} {name} in {where} is not unique: give each {noun} its own name."
                )
    for account in settings.accounts:
        the = f"The account {account.name} in {where}"
        if account.key is not None and account.key_file is not None:
            raise ConfigError(f"{the} has key and key_file: remove one of them, preferably key.")
        if account.key is None and account.key_file is None:
            raise ConfigError(f"{the} has no key: add key_file.")
    single_key = next((sources[name] for name in KEY_FORMS if name in sources), None)
    if settings.accounts and single_key is not None:
        raise ConfigError(
            f"There are accounts in {where} and a separate key: unset "
            f"{single_key.replace(f'in {where}', 'in it')}, or add an account for that key."
        )
