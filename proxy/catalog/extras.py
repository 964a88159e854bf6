"""What goes beside the node classes: subgraphs, replacements, pictures of models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import structlog
from cachetools import TLRUCache

from proxy.catalog.source import PAUSE, Accounts, CachedResource, Picture
from proxy.cloud.errors import CloudError
from proxy.translate import codec
from proxy.translate.errors import LocalError

log = structlog.get_logger(__name__)

#: Bytes of pictures that are kept.
MOST_BYTES = 32 * 1024 * 1024
#: What a model without a picture counts for.
_ENTRY_BYTES = 256
#: Pictures of templates that are fetched at once.
AT_ONCE = 6

#: What names a picture at the cloud.
Key: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Shown:
    picture: Picture | None
    until: float

    @property
    def size(self) -> int:
        return _ENTRY_BYTES + (len(self.picture[0]) if self.picture else 0)


class PictureCache:
    """What `ask` gives, the least recently used dropped first.

    Callers that want the same picture together cause one call. Within `max_age` (seconds) nothing
    is asked again, also of models of which the cloud has no picture.
    """

    def __init__(self, ask: Callable[..., Awaitable[Picture | None]], *, max_age: float) -> None:
        self._ask = ask
        self._max_age = max_age
        self._shown: TLRUCache[Key, _Shown] = TLRUCache(
            MOST_BYTES, lambda _key, shown, _now: shown.until, getsizeof=lambda shown: shown.size
        )
        self._asking: dict[Key, asyncio.Task[Picture | None]] = {}

    async def close(self) -> None:
        """Stop asking."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def get(self, *key: str | int) -> Picture | None:
        """A picture; `None` if the cloud has none or cannot be asked."""
        shown = self._shown.get(key)
        if shown is not None:
            return shown.picture
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._load(key), name="fetch a picture")
        return await asyncio.shield(task)

    async def _load(self, key: Key) -> Picture | None:
        age = self._max_age
        try:
            picture = await self._ask(*key)
        except CloudError as error:
            log.info("picture_failed", picture=list(key), error=str(error))
            picture, age = None, PAUSE
        finally:
            self._asking.pop(key, None)
        if picture is not None and not picture[1].startswith(("image/", "audio/")):
            picture = None
        shown = _Shown(picture, time.monotonic() + age)
        if shown.size <= self._shown.maxsize:
            self._shown[key] = shown
        return picture


Ask: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]


class Extras:
    """Copies in `folder` and in memory; what is older than `max_age` (seconds) is fetched again."""

    def __init__(self, accounts: Accounts, folder: Path, *, max_age: float) -> None:
        self._accounts = accounts
        self._folder = folder
        self._max_age = max_age
        self._subgraphs = self._kept(
            "list of subgraphs",
            "subgraphs",
            lambda: accounts.ask(lambda cloud: cloud.global_subgraphs()),
        )
        self._replacements = self._kept(
            "list of node replacements",
            "node_replacements",
            lambda: accounts.ask(lambda cloud: cloud.node_replacements()),
        )
        self._data: dict[str, CachedResource[dict[str, Any]]] = {}
        self._pictures = PictureCache(self._ask_for_picture, max_age=max_age)
        self._of_templates = PictureCache(self._ask_for_template, max_age=max_age)
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def close(self) -> None:
        """Stop fetching."""
        every = [self._subgraphs, self._replacements, *self._data.values()]
        pictures = [self._pictures.close(), self._of_templates.close()]
        await asyncio.gather(*pictures, *(kept.close() for kept in every))

    async def subgraphs(self) -> dict[str, Any]:
        """`{id: {"source", "name", "info"}}`, as ComfyUI lists them: without their `data`."""
        return {
            id_: {key: value for key, value in about.items() if key != "data"}
            for id_, about in (await _or_none(self._subgraphs)).items()
            if isinstance(about, dict)
        }

    async def subgraph(self, id_: str) -> dict[str, Any] | None:
        """One with its `data`; `None` for one that is not listed."""
        about = (await self.subgraphs()).get(id_)
        if about is None:
            return None
        kept = self._data.get(id_)
        if kept is None:

            async def fetch() -> dict[str, Any]:
                return await self._accounts.ask(lambda cloud: cloud.global_subgraph(id_)) or {}

            name = f"subgraph-{quote(id_, safe='')}"
            kept = self._data[id_] = self._kept(f"subgraph {id_}", name, fetch)
        data = (await _or_none(kept)).get("data")
        return {**about, "data": data} if isinstance(data, str) and data else None

    async def node_replacements(self) -> dict[str, Any]:
        """`{old class: [{"new_node_id", …}]}`."""
        return await _or_none(self._replacements)

    async def preview(self, folder: str, index: int, file: str) -> Picture | None:
        """A model's picture and its media type."""
        return await self._pictures.get(folder, index, file)

    async def _ask_for_picture(self, folder: str, index: int, file: str) -> Picture | None:
        return await self._accounts.ask(lambda cloud: cloud.model_preview(folder, index, file))

    async def template_picture(self, name: str) -> Picture | None:
        """A picture or sound of a workflow template, and its media type."""
        return await self._of_templates.get(name)

    async def _ask_for_template(self, name: str) -> Picture | None:
        async with self._turns:  # a gallery asks for a hundred
            return await self._accounts.ask(lambda cloud: cloud.template_picture(name))

    def _kept(self, what: str, name: str, ask: Ask) -> CachedResource[dict[str, Any]]:
        async def fetch() -> bytes:
            return codec.dump_bytes(await ask())

        path = self._folder / f"{name}.json"
        return CachedResource(what, path, fetch, _read_object, max_age=self._max_age)


async def _or_none(kept: CachedResource[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await kept.get()
    except LocalError:
        return {}


def _read_object(body: bytes) -> dict[str, Any]:
    value = codec.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
