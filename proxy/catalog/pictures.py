"""The pictures of models, kept in memory for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from proxy.cloud.errors import CloudError

log = structlog.get_logger(__name__)

#: Bytes of pictures that are kept.
MOST_BYTES = 32 * 1024 * 1024
#: What a model without a picture counts for.
_ENTRY_BYTES = 256
#: Seconds before the cloud is asked again after it has failed.
PAUSE = 10.0

#: Bytes and media type.
Picture: TypeAlias = tuple[bytes, str]
#: Folder, index of its path, name of the model.
Key: TypeAlias = tuple[str, int, str]


@dataclass(slots=True)
class _Shown:
    picture: Picture | None
    until: float

    @property
    def size(self) -> int:
        return _ENTRY_BYTES + (len(self.picture[0]) if self.picture else 0)


class Pictures:
    """What `ask` gives, the least recently used dropped first.

    Callers that want the same picture together cause one call. Within `max_age` (seconds) nothing
    is asked again, also of models of which the cloud has no picture.
    """

    def __init__(
        self, ask: Callable[[str, int, str], Awaitable[Picture | None]], *, max_age: float
    ) -> None:
        self._ask = ask
        self._max_age = max_age
        self._shown: OrderedDict[Key, _Shown] = OrderedDict()
        self._bytes = 0
        self._asking: dict[Key, asyncio.Task[Picture | None]] = {}

    async def close(self) -> None:
        """Stop asking."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def get(self, folder: str, index: int, name: str) -> Picture | None:
        """A picture; `None` if the cloud has none or cannot be asked."""
        key = folder, index, name
        shown = self._shown.get(key)
        if shown is not None and time.monotonic() < shown.until:
            self._shown.move_to_end(key)
            return shown.picture
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._load(key), name="model picture")
        return await asyncio.shield(task)

    async def _load(self, key: Key) -> Picture | None:
        age = self._max_age
        try:
            picture = await self._ask(*key)
        except CloudError as error:
            log.info("model_picture_failed", folder=key[0], model=key[2], error=str(error))
            picture, age = None, PAUSE
        finally:
            self._asking.pop(key, None)
        if picture is not None and not picture[1].startswith("image/"):
            picture = None
        self._keep(key, _Shown(picture, time.monotonic() + age))
        return picture

    def _keep(self, key: Key, shown: _Shown) -> None:
        before = self._shown.pop(key, None)
        self._bytes += shown.size - (before.size if before else 0)
        self._shown[key] = shown
        while self._bytes > MOST_BYTES and len(self._shown) > 1:
            self._bytes -= self._shown.popitem(last=False)[1].size
