"""The bodies of `GET /object_info` that were asked for, each made once and off the event loop."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from proxy.catalog.whole import Body, Coding, Whole

#: Bodies that are kept. They share what is the same for all members, unless it is zstd.
MOST = 64


class Bodies:
    """The bodies of the newest catalogue by list of files and coding."""

    def __init__(self) -> None:
        self._whole: Whole | None = None
        self._made: OrderedDict[tuple[tuple[str, ...], Coding], asyncio.Task[Body]] = OrderedDict()

    async def get(self, whole: Whole, files: Sequence[str], coding: Coding) -> Body:
        """The body of `whole`, the newest catalogue; who waits together gets the same."""
        if whole is not self._whole:
            self._whole = whole
            self._made.clear()
        key = tuple(files), coding
        making = self._made.get(key)
        if making is None or (making.done() and (making.cancelled() or making.exception())):
            making = asyncio.create_task(asyncio.to_thread(whole.body, key[0], coding))
            self._made[key] = making
            if len(self._made) > MOST:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return making.result() if making.done() else await asyncio.shield(making)

    async def close(self) -> None:
        """Wait for what is being made."""
        await asyncio.gather(*self._made.values(), return_exceptions=True)
        self._made.clear()
