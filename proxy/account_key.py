"""The accounts' keys while the process runs: another one is taken up without a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import structlog

from proxy.settings import (
    AccountAccess,
    AccountSettings,
    ConfigError,
    Settings,
    load,
    read_account_key,
    read_key,
)
from proxy.telemetry import register_secret

log = structlog.get_logger(__name__)

_Stamp: TypeAlias = tuple[int, int, int] | None


class AccountKeys:
    """Reads an account's key again when its file changes, and all keys when `asked` is set.

    `use` gets the account's name and its new key. The files are looked at every `interval` seconds.
    A key that cannot be read changes nothing: the one before is used on.
    """

    def __init__(
        self,
        settings: Settings,
        accounts: Iterable[AccountAccess],
        use: Callable[[str, str], Awaitable[None]],
        *,
        asked: asyncio.Event,
        interval: float = 2.0,
    ) -> None:
        self._settings = settings
        self._keys = {account.name: account.key for account in accounts}
        self._use = use
        self._asked = asked
        self._interval = interval

    async def follow(self) -> None:
        """Go on until cancelled."""
        seen: dict[str, _Stamp] = {}
        while True:
            stamps = await asyncio.to_thread(_stamps, self._settings, list(self._keys))
            asked = self._asked.is_set()
            self._asked.clear()
            for name, stamp in stamps.items():
                if asked or stamp != seen.get(name):
                    await self._reload(name)
            seen = stamps
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._asked.wait()

    async def _reload(self, name: str) -> None:
        try:
            key = await asyncio.to_thread(_read, self._settings, name)
            if key is None or key == self._keys[name]:
                return
            if key in self._keys.values():
                raise ConfigError("Another account has this key.")
        except ConfigError as error:
            log.error("key_not_reloaded", account=name, reason=str(error))
            return
        register_secret(key)
        self._keys[name] = key
        await self._use(name, key)
        log.info("key_reloaded", account=name)


def _read(settings: Settings, name: str) -> str | None:
    """The key as it is set now. The environment of a process does not change, files do."""
    if _file(settings, name) is None and settings.config is not None:
        settings = load({"config": settings.config})
    table = _table(settings, name)
    if table is not None:
        return read_account_key(table)
    return None if settings.accounts else read_key(settings)


def _table(settings: Settings, name: str) -> AccountSettings | None:
    return next((table for table in settings.accounts if table.name == name), None)


def _file(settings: Settings, name: str) -> Path | None:
    table = _table(settings, name)
    return settings.api_key_file if table is None else table.key_file


def _stamps(settings: Settings, names: Iterable[str]) -> dict[str, _Stamp]:
    return {name: _stamp(_file(settings, name)) for name in names}


def _stamp(path: Path | None) -> _Stamp:
    """What changes when the file is written or replaced, behind links too."""
    if path is None:
        return None
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino, about.st_size
