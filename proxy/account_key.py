"""The account's key while the process runs: another one is taken up without a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import structlog

from proxy.config import ConfigError, Settings, load, read_key
from proxy.telemetry import register_secret

log = structlog.get_logger(__name__)

_Stamp: TypeAlias = tuple[int, int, int] | None


class AccountKey:
    """Reads the key again when its file changes and when `asked` is set; `use` gets each new one.

    The file is looked at every `interval` seconds. A key that cannot be read changes nothing: the
    one before is used on.
    """

    def __init__(
        self,
        settings: Settings,
        key: str,
        use: Callable[[str], Awaitable[None]],
        *,
        asked: asyncio.Event,
        interval: float = 2.0,
    ) -> None:
        self._settings = settings
        self._key = key
        self._use = use
        self._asked = asked
        self._interval = interval

    async def follow(self) -> None:
        """Go on until cancelled."""
        seen: _Stamp = None
        while True:
            stamp = await asyncio.to_thread(_stamp, self._settings.api_key_file)
            if self._asked.is_set() or stamp != seen:
                seen = stamp
                self._asked.clear()
                await self._reload()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._asked.wait()

    async def _reload(self) -> None:
        try:
            key = await asyncio.to_thread(_read, self._settings)
        except ConfigError as error:
            log.error("key_not_reloaded", reason=str(error))
            return
        if key is None or key == self._key:
            return
        register_secret(key)
        self._key = key
        await self._use(key)
        log.info("key_reloaded")


def _read(settings: Settings) -> str | None:
    """The key as it is set now. The environment of a process does not change, files do."""
    if settings.api_key_file is None and settings.config is not None:
        settings = load({"config": settings.config})
    return read_key(settings)


def _stamp(path: Path | None) -> _Stamp:
    """What changes when the file is written or replaced, behind links too."""
    if path is None:
        return None
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_ino, about.st_size
