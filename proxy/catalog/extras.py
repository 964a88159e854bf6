"""Subgraphs, node replacements and pictures: empty if the cloud does not answer."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from proxy.catalog.documents import Documents
from proxy.catalog.source import Accounts, CachedResource, Picture, PictureCache
from proxy.translate.errors import LocalError

#: Maximum number of concurrent requests for pictures of templates.
MAX_CONCURRENT_TEMPLATES = 6


class CatalogExtras:
    """What clients can do without, from the cloud of `accounts`. Pictures older than `max_age`
    (seconds) are fetched again."""

    def __init__(self, accounts: Accounts, documents: Documents, *, max_age: float) -> None:
        self._accounts = accounts
        self._documents = documents
        self._subgraphs = documents.object(
            "list of subgraphs", "subgraphs", lambda cloud: cloud.global_subgraphs()
        )
        self._contents: dict[str, CachedResource[dict[str, Any]]] = {}
        self._replacements = documents.object(
            "list of node replacements",
            "node_replacements",
            lambda cloud: cloud.node_replacements(),
        )
        self._pictures = PictureCache(self._ask_for_picture, max_age=max_age)
        self._template_pictures = PictureCache(self._ask_for_template, max_age=max_age)
        self._template_slots = asyncio.Semaphore(MAX_CONCURRENT_TEMPLATES)

    async def close(self) -> None:
        """Stop fetching."""
        await asyncio.gather(self._pictures.close(), self._template_pictures.close())

    async def subgraphs(self) -> dict[str, Any]:
        """Return `{id: {"source", "name", "info"}}`, as ComfyUI lists subgraphs."""
        return {
            id_: {key: value for key, value in about.items() if key != "data"}
            for id_, about in (await _or_empty(self._subgraphs)).items()
            if isinstance(about, dict)
        }

    async def subgraph(self, id_: str) -> dict[str, Any] | None:
        """Return a subgraph with its `data`, `None` if it is not listed."""
        about = (await self.subgraphs()).get(id_)
        if about is None:
            return None
        content = self._contents.get(id_)
        if content is None:
            content = self._contents[id_] = self._documents.object(
                f"subgraph {id_}",
                f"subgraph-{quote(id_, safe='')}",
                lambda cloud: cloud.global_subgraph(id_),
            )
        data = (await _or_empty(content)).get("data")
        return {**about, "data": data} if isinstance(data, str) and data else None

    async def node_replacements(self) -> dict[str, Any]:
        """Return `{old class: [{"new_node_id", …}]}`."""
        return await _or_empty(self._replacements)

    async def preview(self, folder: str, index: int, file: str) -> Picture | None:
        """Return a model's picture and its media type, `None` if there is none."""
        return await self._pictures.get(folder, index, file)

    async def _ask_for_picture(self, folder: str, index: int, file: str) -> Picture | None:
        return await self._accounts.ask(lambda cloud: cloud.model_preview(folder, index, file))

    async def template_picture(self, name: str) -> Picture | None:
        """Return a picture or sound of a workflow template and its media type, `None` if there is
        none."""
        return await self._template_pictures.get(name)

    async def _ask_for_template(self, name: str) -> Picture | None:
        async with self._template_slots:  # a gallery asks for a hundred
            return await self._accounts.ask(lambda cloud: cloud.template_picture(name))


async def _or_empty(resource: CachedResource[dict[str, Any]]) -> dict[str, Any]:
    try:
        return await resource.get()
    except LocalError:
        return {}
