"""The arrays of tables of the settings file: `[[accounts]]` and `[[providers]]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from msgspec import NODEFAULT

from proxy.settings.model import (
    ACCOUNT_SETTINGS,
    PROVIDER_SETTINGS,
    AccountSettings,
    ProviderSettings,
)
from proxy.settings.table import ConfigError, InvalidValueError, Setting, checked, complaint

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
