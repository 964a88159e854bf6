"""Where the values of the settings come from, beside the command line: the environment, a file.

Strongest first: command line, environment, TOML file, default.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from proxy.settings.fields import CLOUD_PREFIX, PREFIX, ConfigError, rows_of

#: Two ways to say the same: the stronger source silences both forms of the weaker one.
KEY_FORMS = ("api_key", "api_key_file")


class SettingsSource(PydanticBaseSettingsSource):
    """A source of values by the names of their settings."""

    def written(self, stronger: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return all values of this source; `stronger` are those of stronger ones.

        Raises `ConfigError`.
        """
        raise NotImplementedError

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return a value, `None` if it is not written here, and its name."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """Return the values that count. Raises `ConfigError`."""
        stronger = self.current_state
        hidden = KEY_FORMS if stronger.keys() & set(KEY_FORMS) else ()
        written = self.written(stronger)
        return {name: value for name, value in written.items() if name not in hidden}


class EnvironmentSource(SettingsSource):
    """The variables of the environment. An empty one counts as not set."""

    def written(self, stronger: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values of all variables. Raises `ConfigError` for an unknown one."""
        rows = rows_of(self.settings_cls)
        known = [row.environment for row in rows if not row.for_once]
        for name in sorted(os.environ):
            if name.startswith((PREFIX, CLOUD_PREFIX)) and name not in known:
                raise ConfigError(
                    f"The environment variable {name} is not a setting: {_remedy(name, known)}."
                )
        found = {row.name: row.in_environment(os.environ) for row in rows if not row.for_once}
        return {name: value for name, value in found.items() if value is not None}


class FileSource(SettingsSource):
    """The TOML file that the setting `config` names."""

    def written(self, stronger: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values of the file, if there is one.

        Raises `ConfigError` for one that cannot be read or has an unknown key.
        """
        config = stronger.get("config")
        if not config:
            return {}
        path = Path(config).expanduser()
        document = _document(path)
        rows = {row.name: row for row in rows_of(self.settings_cls)}
        known = [row.name for row in rows.values() if row.key and not row.for_once]
        known += self.settings_cls.model_fields.keys() - rows.keys()  # the arrays of tables
        for name in document:
            if name not in known:
                raise ConfigError(
                    f"The settings file {path} has `{name}`, which is not a setting: "
                    f"{_remedy(name, known)}."
                )
        return document


def _document(path: Path) -> dict[str, Any]:
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
