"""Where the values of the settings come from: options, the environment, a file.

Strongest first: command line, environment, TOML file, default.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from proxy.settings.fields import CLOUD_PREFIX, PREFIX, ConfigError, Setting, SettingsTable, rows_of

#: Two ways to say the same: the stronger source silences both forms of the weaker one.
KEY_FORMS = ("api_key", "api_key_file")


class Source(NamedTuple):
    """The values of a source by the names of their settings; `place` returns the words for where
    that of a name is written."""

    values: Mapping[str, Any]
    place: Callable[[str], str]


def sources_of(table: type[SettingsTable], options: Mapping[str, Any]) -> Iterator[Source]:
    """Yield the sources of a table, of which `options` is the strongest.

    Raises `ConfigError` for an unknown variable or key, and for a file that cannot be read.
    """
    rows = {row.name: row for row in rows_of(table)}
    environment = _environment([row for row in rows.values() if not row.for_once])
    found = [
        Source(options, lambda name: rows[name].option or name if name in rows else name),
        Source(environment, lambda name: rows[name].environment),
    ]
    if config := {**environment, **options}.get("config"):
        path = Path(config).expanduser()
        known = [row.name for row in rows.values() if row.key and not row.for_once]
        known += table.model_fields.keys() - rows.keys()  # the arrays of tables
        found.append(Source(_document(path, known), lambda name: f"`{name}` in {path}"))
    hidden: tuple[str, ...] = ()
    for source in found:
        values = {name: value for name, value in source.values.items() if name not in hidden}
        yield Source(values, source.place)
        if source.values.keys() & set(KEY_FORMS):
            hidden = KEY_FORMS


def _environment(rows: Iterable[Setting]) -> dict[str, str]:
    """Return the values of all variables. An empty one counts as not set. Raises `ConfigError` for
    an unknown one."""
    variables = {row.environment: row for row in rows}
    for name in sorted(os.environ):
        if name.startswith((PREFIX, CLOUD_PREFIX)) and name not in variables:
            raise ConfigError(
                f"The environment variable {name} is not a setting: {_remedy(name, variables)}."
            )
    found = {row.name: row.in_environment(os.environ) for row in variables.values()}
    return {name: value for name, value in found.items() if value is not None}


def _document(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Return the values of a file. Raises `ConfigError`."""
    document = _parsed(path)
    for name in document:
        if name not in known:
            raise ConfigError(
                f"The settings file {path} has `{name}`, which is not a setting: "
                f"{_remedy(name, known)}."
            )
    return document


def _parsed(path: Path) -> dict[str, Any]:
    """Return what a file has. Raises `ConfigError`."""
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


def _remedy(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"remove it, or write {near[0]}" if near else "remove it"
