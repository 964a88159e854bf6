"""The settings of the proxy: their table, and where their values come from."""

from proxy.config.key import read_key
from proxy.config.loading import load
from proxy.config.settings import SETTINGS, ConfigError, Setting, Settings

__all__ = ["SETTINGS", "ConfigError", "Setting", "Settings", "load", "read_key"]
