"""The one interface of the store: ordered collections of small documents."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.storage.database import StorageError


@dataclass(frozen=True, slots=True)
class Put:
    """Write a document; replaces what was there."""

    collection: str
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a document; nothing happens if there is none."""

    collection: str
    key: str


class Store(Protocol):
    """Documents by collection and key.

    A write is on disk when the call returns. Raises `StoreError` when it cannot be made.
    """

    async def get(self, collection: str, key: str) -> bytes | None:
        """The document, or `None`."""

    async def put(self, collection: str, key: str, value: bytes) -> None:
        """Write a document."""

    async def insert(self, collection: str, key: str, value: bytes) -> bool:
        """Write a document if the key is free; says whether it was."""

    async def delete(self, collection: str, key: str) -> None:
        """Remove a document."""

    async def write(self, changes: Sequence[Put | Delete]) -> None:
        """Make all of the changes or none, in their order."""

    def scan(self, collection: str, prefix: str = "") -> AsyncIterator[tuple[str, bytes]]:
        """All documents whose key begins with `prefix`, in the order of their keys.

        Documents written while the scan runs may or may not be among them.
        """

    async def close(self) -> None:
        """Flush and close."""


#: The store cannot be read or written: disk full, read-only, locked or damaged.
StoreError = StorageError
