"""The settings of the proxy: their table, and where their values come from."""

from proxy.settings.accounts import ACCOUNT_ENTRIES, AccountAccess, AccountSettings, slots_of
from proxy.settings.key import read_account_key, read_accounts, read_key
from proxy.settings.loading import load
from proxy.settings.model import SETTINGS, Setting, Settings, place_options
from proxy.settings.table import ConfigError

__all__ = [
    "ACCOUNT_ENTRIES",
    "SETTINGS",
    "AccountAccess",
    "AccountSettings",
    "ConfigError",
    "Setting",
    "Settings",
    "load",
    "place_options",
    "read_account_key",
    "read_accounts",
    "read_key",
    "slots_of",
]
