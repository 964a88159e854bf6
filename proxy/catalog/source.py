"""Where the catalogue comes from: the first account that gives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import structlog
from yarl import URL

from proxy.catalog.pictures import Picture
from proxy.cloud.errors import CloudError, CloudUnreachable

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Cloud(Protocol):
    """What the catalogue needs of an account."""

    base_url: URL

    async def object_info(self) -> bytes:
        """All node classes, as JSON."""

    async def model_folders(self) -> list[dict[str, Any]]:
        """`[{"name", "folders"}]`."""

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        """`[{"name", "pathIndex"}]`, or `None` for an unknown or empty folder."""

    async def model_preview(self, folder: str, index: int, file: str) -> Picture | None:
        """A model's picture and its media type."""

    async def global_subgraphs(self) -> dict[str, Any]:
        """Subgraphs by id, `{"source", "name", "info"}` of each."""

    async def global_subgraph(self, id_: str) -> dict[str, Any] | None:
        """One subgraph with its `data`, JSON as text."""

    async def node_replacements(self) -> dict[str, Any]:
        """What may stand in place of old node classes, by class."""


class Accounts:
    """Several accounts as one source.

    `order` gives those that may be asked, the best first. One that fails is passed over; where
    all do, the error of the first goes to the caller. Accounts of one cloud have one catalogue,
    so whose it is makes no difference; where they are at different clouds it is still one
    account's, for all jobs.
    """

    def __init__(self, base_url: URL, order: Callable[[], Sequence[Cloud]]) -> None:
        self.base_url = base_url
        self._order = order

    async def object_info(self) -> bytes:
        """All node classes, as JSON."""
        return await self._first(lambda cloud: cloud.object_info())

    async def model_folders(self) -> list[dict[str, Any]]:
        """`[{"name", "folders"}]`."""
        return await self._first(lambda cloud: cloud.model_folders())

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        """`[{"name", "pathIndex"}]`, or `None` for an unknown or empty folder."""
        return await self._first(lambda cloud: cloud.models(folder))

    async def model_preview(self, folder: str, index: int, file: str) -> Picture | None:
        """A model's picture and its media type."""
        return await self._first(lambda cloud: cloud.model_preview(folder, index, file))

    async def global_subgraphs(self) -> dict[str, Any]:
        """Subgraphs by id, `{"source", "name", "info"}` of each."""
        return await self._first(lambda cloud: cloud.global_subgraphs())

    async def global_subgraph(self, id_: str) -> dict[str, Any] | None:
        """One subgraph with its `data`, JSON as text."""
        return await self._first(lambda cloud: cloud.global_subgraph(id_))

    async def node_replacements(self) -> dict[str, Any]:
        """What may stand in place of old node classes, by class."""
        return await self._first(lambda cloud: cloud.node_replacements())

    async def _first(self, ask: Callable[[Cloud], Awaitable[T]]) -> T:
        problem: CloudError | None = None
        for cloud in self._order():
            try:
                return await ask(cloud)
            except CloudError as error:
                log.info("account_skipped", reason=str(error))
                problem = problem or error
        raise problem or CloudUnreachable("there is no account to ask")
