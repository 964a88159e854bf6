"""The settings of the proxy: their table, and where their values come from."""

from proxy.config.accounts import ACCOUNT_ENTRIES, AccountAccess, AccountSettings, slots_of
from proxy.config.key import read_account_key, read_accounts, read_key
from proxy.config.loading import load
from proxy.config.settings import SETTINGS, Setting, Settings
from proxy.config.table import ConfigError

__all__ = [
    "ACCOUNT_ENTRIES",
    "SETTINGS",
    "AccountAccess",
    "AccountSettings",
    "ConfigError",
    "Setting",
    "Settings",
    "load",
    "read_account_key",
    "read_accounts",
    "read_key",
    "slots_of",
]
