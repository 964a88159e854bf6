"""All settings together.

Every setting is one annotated field of the table of its group, with its description. Its option,
its variable, its key of the TOML file, `config.example.toml` and the reference in `docs/` are drawn
from it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from proxy.settings.clients import ClientSettings
from proxy.settings.cloud import AccountSettings, CloudSettings
from proxy.settings.fields import SettingsTable, rows_of
from proxy.settings.gateway import CostSettings, GatewaySettings
from proxy.settings.general import GeneralSettings, LogSettings, default_data_dir
from proxy.settings.sign_in import ProviderSettings, SignInSettings
from proxy.settings.sources import sources_of
from proxy.settings.storage import ClusterSettings, FileSettings


def pictures_folder(*, simulated: bool) -> Path:
    """Return the folder in which a person who uses the proxy alone finds the outputs."""
    return Path.home() / "ComfyUI-Cloud" / ("simulated" if simulated else "output")


def record_options(settings: Settings) -> str:
    """Return the options by which another command finds the same records; empty for the default."""
    if settings.database is not None:
        return ""
    if settings.data_dir != default_data_dir(simulated=settings.simulate):
        return f" --data-dir {shlex.quote(str(settings.data_dir))}"
    return " --simulate" if settings.simulate else ""


class Settings(
    BaseSettings,
    GeneralSettings,
    CloudSettings,
    ClientSettings,
    GatewaySettings,
    CostSettings,
    SignInSettings,
    ClusterSettings,
    FileSettings,
    LogSettings,
):
    """All settings: those that are not given come from the environment and the settings file.

    Raises `pydantic.ValidationError` for values that are not allowed, and `ConfigError`; `load`
    raises `ConfigError` alone.
    """

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from, the strongest first. Raises `ConfigError`."""
        return tuple(
            InitSettingsSource(settings_cls, dict(source.values))
            for source in sources_of(cls, init_settings())
        )


#: The tables in the settings file that are repeated, by their key.
ARRAYS: Mapping[str, type[SettingsTable]] = {
    "accounts": AccountSettings,
    "providers": ProviderSettings,
}

_ALL = [
    row
    for table in Settings.__bases__
    if issubclass(table, SettingsTable)
    for row in rows_of(table)
]
#: The settings, by their groups.
SETTINGS = tuple(row for row in _ALL if not row.for_once)
#: What `serve` has options for.
SERVE_SETTINGS = tuple(sorted(_ALL, key=lambda row: not row.for_once))
#: The keys of a table of an account, and of one of a provider, in the order of the documents.
ACCOUNT_SETTINGS, PROVIDER_SETTINGS = rows_of(AccountSettings), rows_of(ProviderSettings)
