"""The account's key, from the variable or from the file that holds it."""

from __future__ import annotations

from pathlib import Path

from proxy.config.settings import ConfigError, Settings


def read_key(settings: Settings) -> str | None:
    """The key, or `None` where none is set.

    Raises `ConfigError` when it is set twice in one place, when its file cannot be read and when
    what is there cannot be a key.
    """
    if settings.api_key is not None and settings.api_key_file is not None:
        raise ConfigError(
            "The API key is set both as itself and as a file: "
            "unset COMFY_CLOUD_API_KEY or COMFY_CLOUD_API_KEY_FILE."
        )
    if settings.api_key_file is not None:
        return _usable(_read(settings.api_key_file), f"the file {settings.api_key_file}")
    if settings.api_key is not None:
        return _usable(settings.api_key.get_secret_value(), "COMFY_CLOUD_API_KEY")
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"The key file {path} cannot be read ({error.strerror}): "
            "correct COMFY_CLOUD_API_KEY_FILE or the permissions of the file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            f"The key file {path} is not text: put the API key into it and nothing else."
        ) from None


def _usable(text: str, where: str) -> str:
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"There is no API key in {where}: put it there, one line without spaces.")
    return key
