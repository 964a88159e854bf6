"""Keys of accounts that are read again when their files change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing

import structlog

from proxy.logging import register_secret
from proxy.runtime.watched_files import WatchedFiles
from proxy.settings.accounts import AccountAccess, read_key, tables_of
from proxy.settings.cloud import AccountSettings
from proxy.settings.fields import ConfigError
from proxy.settings.loading import load
from proxy.settings.model import Settings

log = structlog.get_logger(__name__)


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
        tables = [table for table in tables_of(self._settings) if table.name in self._keys]
        files = {table.name: table.key_file for table in tables}
        watched = WatchedFiles(files, interval=self._interval)
        async with aclosing(watched.changes(self._asked)) as changes:
            async for names in changes:
                for name in names:
                    await self._reload(name)

    def _rivals(self, name: str) -> list[str]:
        """Return the other accounts that cannot have the same key."""
        cloud = {table.name for table in self._settings.accounts if not table.is_deployment}
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
    table = _table(settings, name)
    if (table is None or table.key_file is None) and settings.config is not None:
        settings = load({"config": settings.config})
        table = _table(settings, name)
    return None if table is None else read_key(settings, table)


def _table(settings: Settings, name: str) -> AccountSettings | None:
    return next((table for table in tables_of(settings) if table.name == name), None)
