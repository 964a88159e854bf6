"""What else describes the cloud: its subgraphs, which nodes replace old ones, pictures of models.

Clients do without these, so that what the cloud does not give counts as not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from proxy.catalog.kept import Kept
from proxy.catalog.pictures import Picture, Pictures
from proxy.catalog.source import Cloud
from proxy.translate import codec
from proxy.translate.errors import LocalError

Ask: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]


class Extras:
    """Copies in `folder` and in memory; what is older than `max_age` (seconds) is fetched anew."""

    def __init__(self, cloud: Cloud, folder: Path, *, max_age: float) -> None:
        self._cloud = cloud
        self._folder = folder
        self._max_age = max_age
        self._subgraphs = self._kept(
            "list of subgraphs", "subgraphs", lambda: cloud.global_subgraphs()
        )
        self._replacements = self._kept(
            "list of node replacements", "node_replacements", lambda: cloud.node_replacements()
        )
        self._data: dict[str, Kept[dict[str, Any]]] = {}
        self._pictures = Pictures(self._ask_for_picture, max_age=max_age)

    async def close(self) -> None:
        """Stop fetching."""
        every = [self._subgraphs, self._replacements, *self._data.values()]
        await asyncio.gather(self._pictures.close(), *(kept.close() for kept in every))

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
                return await self._cloud.global_subgraph(id_) or {}

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
        return await self._cloud.model_preview(folder, index, file)

    def _kept(self, what: str, name: str, ask: Ask) -> Kept[dict[str, Any]]:
        async def fetch() -> bytes:
            return codec.dump_bytes(await ask())

        path = self._folder / f"{name}.json"
        return Kept(what, path, fetch, _read_object, max_age=self._max_age)


async def _or_none(kept: Kept[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await kept.get()
    except LocalError:
        return {}


def _read_object(body: bytes) -> dict[str, Any]:
    value = codec.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
