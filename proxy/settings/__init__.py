"""The settings of the proxy: their table, and where their values come from."""

from proxy.settings.accounts import (
    AccountAccess,
    AccountKeys,
    read_account_key,
    read_accounts,
    read_key,
    read_secrets,
    slots_of,
)
from proxy.settings.loading import load
from proxy.settings.model import (
    ACCOUNT_SETTINGS,
    PLANS,
    SETTINGS,
    AccountSettings,
    Settings,
    place_options,
)
from proxy.settings.table import ConfigError, Secret, Setting

__all__ = [
    "ACCOUNT_SETTINGS",
    "PLANS",
    "SETTINGS",
    "AccountAccess",
    "AccountKeys",
    "AccountSettings",
    "ConfigError",
    "Secret",
    "Setting",
    "Settings",
    "load",
    "place_options",
    "read_account_key",
    "read_accounts",
    "read_key",
    "read_secrets",
    "slots_of",
]
