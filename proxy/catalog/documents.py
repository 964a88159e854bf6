"""Documents of one cloud, with their copies in a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import structlog

from proxy.catalog.source import Accounts, CachedResource
from proxy.translate import codec

if TYPE_CHECKING:
    from proxy.cloud.upstream import CloudDocuments

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: A call to the cloud whose answer is JSON, or `None` if the cloud has nothing.
Question: TypeAlias = "Callable[[CloudDocuments], Awaitable[Any]]"


class Documents:
    """The documents of the cloud of `accounts`, each with a copy in `folder`.

    What is older than `max_age` (seconds) is still served while it is fetched again.
    """

    def __init__(self, accounts: Accounts, folder: Path, *, max_age: float) -> None:
        self._accounts = accounts
        self._folder = folder
        self._max_age = max_age
        self._opened: list[CachedResource[Any]] = []

    def open(
        self,
        what: str,
        name: str,
        fetch: Callable[[], Awaitable[bytes]],
        read: Callable[[bytes], T],
        *,
        instead: bytes | None = None,
    ) -> CachedResource[T]:
        """Return a document, which errors call `what`, whose copy is the file of a `name`."""
        path = self._folder / f"{name}.json"
        opened = CachedResource(what, path, fetch, read, max_age=self._max_age, instead=instead)
        self._opened.append(opened)
        return opened

    def objects(
        self, what: str, name: str, question: Question
    ) -> CachedResource[list[dict[str, Any]]]:
        """Return a document of objects that have a `name`."""
        return self.open(what, name, self._asked(question, []), _read_list)

    def object(self, what: str, name: str, question: Question) -> CachedResource[dict[str, Any]]:
        """Return a document that is an object."""
        return self.open(what, name, self._asked(question, {}), _read_object)

    def _asked(self, question: Question, empty: Any) -> Callable[[], Awaitable[bytes]]:
        async def fetch() -> bytes:
            return codec.dump_bytes(await self._accounts.ask(question) or empty)

        return fetch

    async def start(self) -> None:
        """Remove the copies of other accounts."""
        await asyncio.to_thread(_claim, self._folder, self._accounts.origin)

    async def close(self) -> None:
        """Stop fetching."""
        await asyncio.gather(*(document.close() for document in self._opened))


def _read_object(body: bytes) -> dict[str, Any]:
    value = codec.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _read_list(body: bytes) -> list[dict[str, Any]]:
    items = codec.loads(body)
    if not isinstance(items, list):
        raise ValueError("not a list")
    return [item for item in items if isinstance(item, dict) and isinstance(item.get("name"), str)]


def _claim(folder: Path, origin: str) -> None:
    """Remove the copies from elsewhere, and note that the folder has those of `origin`."""
    mark = folder / "cloud"
    try:
        is_same = mark.read_text(encoding="utf-8") == origin
    except (OSError, ValueError):
        is_same = False
    if is_same:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for copy in folder.glob("*.json"):
            copy.unlink(missing_ok=True)
        mark.write_text(origin, encoding="utf-8")
    except OSError as error:
        log.warning("catalog_folder_skipped", error=str(error))
