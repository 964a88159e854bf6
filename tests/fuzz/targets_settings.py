"""Targets: settings, from a file and from the environment."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path

from fuzz.harness import of_bytes, of_text

from proxy.settings.fields import ConfigError
from proxy.settings.loading import load
from proxy.settings.model import SETTINGS

_EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


@cache
def _config() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-")) / "config.toml"


@of_bytes(
    ConfigError,
    seeds=lambda: (
        _EXAMPLE.read_bytes(),
        b'listen = ["127.0.0.1"]\nport = 8188\n[[account]]\nname = "a"\nkey = "b"\nslots = "1"\n',
        b'[[provider]]\nname = "a"\nissuer = "https://a"\nclient_id = "b"\nclient_secret = "c"\n',
    ),
)
def settings_file(data: bytes) -> None:
    """Read a file with settings."""
    _config().write_bytes(data)
    load({"config": _config()})


@of_text(ConfigError, seeds=[f"{row.environment}={row.help[:20]}" for row in SETTINGS])
def settings_variable(text: str) -> None:
    """Read a variable of the environment."""
    name, _, value = text.partition("=")
    known = {row.environment for row in SETTINGS}
    if name not in known or "\0" in value:
        return
    os.environ[name] = value
    try:
        load()
    finally:
        del os.environ[name]
