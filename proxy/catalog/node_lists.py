"""The node classes of accounts whose list is a file on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import structlog
from yarl import URL

from proxy.catalog.owners import Merging, Owners, split_owners
from proxy.cloud.errors import CloudError
from proxy.cloud.upstream import Upstream
from proxy.runtime.watched_files import WatchedFiles
from proxy.translate import codec

log = structlog.get_logger(__name__)

#: A body with no classes.
EMPTY = b"{}"


class NodeLists:
    """Reads the lists that are files, by the names of their accounts, at the start and when they
    change.

    No copy of them is on the disk, which could be older. A list that can no longer be read stays as
    it was read last, and its account takes no jobs meanwhile.
    """

    def __init__(
        self, places: Mapping[str, Path | URL], named: Mapping[str, Upstream], *, interval: float
    ) -> None:
        files = {name: place for name, place in places.items() if isinstance(place, Path)}
        self._clouds = {name: named[name] for name in files}
        self._bodies: dict[str, bytes] = {}
        self._watched = WatchedFiles[str](files, interval=interval)
        #: The accounts whose list is no file.
        self.others = [name for name in named if name not in files]
        #: Why files could not be read the last time, by their accounts.
        self.problems: dict[str, str] = {}

    async def start(self) -> None:
        """Read all files."""
        await asyncio.to_thread(self._watched.look)
        await self.read()

    async def changes(self) -> AsyncGenerator[list[str]]:
        """Yield the names of accounts whose files have changed, once they are read again."""
        async with aclosing(self._watched.changes()) as changes:
            async for names in changes:
                await self.read()
                yield names

    async def read(self) -> None:
        """Read all files now."""
        problems = {}
        for name, cloud in self._clouds.items():
            try:
                body = await cloud.object_info()
            except CloudError as error:
                problems[name] = str(error)
                if problems[name] != self.problems.get(name):
                    log.error("node_list_rejected", account=name, reason=problems[name])
                continue
            if body != self._bodies.get(name):
                self._bodies[name] = body
                log.info("node_list_read", account=name, bytes=len(body))
        self.problems = problems

    def split_owners(self, body: bytes) -> tuple[dict[str, Any], Owners]:
        """Return the classes of the other accounts with those of the files, and their owners.

        An account whose file was never read has none. Raises `ValueError` when there are none.
        """
        if not self._clouds:
            return split_owners(body)
        classes, owners = ({}, {}) if body == EMPTY else split_owners(body)
        merging = Merging(classes, owners, self.others if classes else ())
        for name in self._clouds:
            listed = self._bodies.get(name)
            merging.add(name, {} if listed is None else codec.loads(listed))
        if not merging.classes:
            raise ValueError("; ".join(self.problems.values()) or "no node classes")
        return merging.classes, merging.owners
