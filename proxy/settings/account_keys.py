"""Keys of accounts that are read again when their files change."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import structlog

from proxy.logging import register_secret
from proxy.settings.accounts import AccountAccess, read_key
from proxy.settings.cloud import AccountSettings
from proxy.settings.fields import ConfigError
from proxy.settings.loading import load
from proxy.settings.model import Settings

log = structlog.get_logger(__name__)

_Stamp: TypeAlias = tuple[int, int, int] | None


class AccountKeys:
    """Reads an account's key again when its file changes, and all keys when `asked` is set.

    `use` gets the account's name and its new key. The files are looked at every `interval` seconds.
    A key that cannot be read changes nothing: the previous one stays in use.
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
        """Watch the files until cancelled."""
        seen: dict[str, _Stamp] = {}
        while True:
            stamps = await asyncio.to_thread(self._stamps)
            asked = self._asked.is_set()
            self._asked.clear()
            for name, stamp in stamps.items():
                if asked or stamp != seen.get(name):
                    await self._reload(name)
            seen = stamps
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._asked.wait()

    def _stamps(self) -> dict[str, _Stamp]:
        return {name: _stamp(_file(self._settings, name)) for name in self._keys}

    def _rivals(self, name: str) -> list[str]:
        """Return the other accounts that cannot have the same key."""
        cloud = {table.name for table in self._settings.accounts if table.kind == "cloud"}
        return [other for other in cloud if other != name] if name in cloud else []

    async def _reload(self, name: str) -> None:
        try:
            key = await asyncio.to_thread(_read_again, self._settings, name)
            if key is None or key == self._keys[name]:
                return
            if key in (self._keys[other] for other in self._rivals(name)):
                raise ConfigError("Another account has this key.")
        except ConfigError as error:
            log.error("key_reload_failed", account=name, reason=str(error))
            return
        register_secret(key)
        self._keys[name] = key
        await self._use(name, key)
        log.info("key_reloaded", account=name)


def _read_again(settings: Settings, name: str) -> str | None:
    """Return the key as it is set now. The environment of a process does not change, files do."""
    if _file(settings, name) is None and settings.config is not None:
        settings = load({"config": settings.config})
    table = _table(settings, name)
    return None if table is None and settings.accounts else read_key(settings, table)


def _table(settings: Settings, name: str) -> AccountSettings | None:
    return next((table for table in settings.accounts if table.name == name), None)


def _file(settings: Settings, name: str) -> Path | None:
    table = _table(settings, name)
    return settings.api_key_file if table is None else table.key_file


def _stamp(path: Path | None) -> _Stamp:
    """Return what changes when the file is written or replaced, also through links."""
    if path is None:
        return None
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino, about.st_size
