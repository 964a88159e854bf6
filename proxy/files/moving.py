"""Files on their way to the account that needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from proxy.files.cache import Cache
from proxy.files.contents import Contents
from proxy.files.library import Library
from proxy.files.namespace import Namespace
from proxy.files.uploads import Received, Uploads
from proxy.storage.files import FileRecord
from proxy.translate import names
from proxy.translate.errors import LocalError

#: Files of one graph that are sent at once.
AT_ONCE = 4


class Moving:
    """Knows how an account calls a file, and sends it there if it does not have it.

    A file stays where it was made or sent first; other accounts get its content as an upload.
    """

    def __init__(
        self,
        namespace: Namespace,
        library: Library,
        cache: Cache,
        contents: Contents,
        uploads: Uploads,
    ) -> None:
        self._namespace = namespace
        self._library = library
        self._cache = cache
        self._contents = contents
        self._uploads = uploads

    async def name_at(self, record: FileRecord, account: str) -> str:
        """What a graph for the account calls the file, with the folder that it is in there."""
        if record.account != account:
            hash_ = await self._hash(record)
            sent = None if hash_ is None else await self._contents.sent_as(account, hash_)
            if sent is not None:
                return names.annotate(sent, "input")
        return names.annotate(record.cloud_name, record.cloud_type)

    async def ensure_sent(self, records: Iterable[FileRecord], account: str) -> None:
        """Send what the account does not have.

        Raises `LocalError` (424 if the account that has a file does not hand it out, otherwise
        what is wrong with this one), `StorageError`.
        """
        missing = [record for record in records if not await self._is_at(record, account)]
        if not missing:
            return
        turn = asyncio.Semaphore(AT_ONCE)

        async def send(record: FileRecord) -> None:
            async with turn:
                if record.account == account:
                    await self._send_again(record, account)
                else:
                    await self._send(record, account)

        results = await asyncio.gather(*map(send, missing), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result

    async def _is_at(self, record: FileRecord, account: str) -> bool:
        if record.account == account and record.cloud_type != "input":
            return True
        hash_ = await self._hash(record)
        return hash_ is not None and await self._contents.sent_as(account, hash_) is not None

    async def _send(self, record: FileRecord, account: str) -> None:
        """Send a file of another account, fetched from there unless it is in the cache.

        That the other account does not hand it out is not the fault of this one.
        """
        async with self._fetched(record) as path:
            hash_, size = path.name, path.stat().st_size
            await self._contents.was_fetched(record.account, record.cloud_name, hash_, size)
            await self._uploads.ensure_sent(account, Received(path, hash_, size), record.filename)
        if record.hash is None:  # so that the other account's name leads to the file
            await self._write(record, replace(record, hash=hash_, size=size))

    @asynccontextmanager
    async def _fetched(self, record: FileRecord) -> AsyncIterator[Path]:
        async with AsyncExitStack() as stack:
            try:
                path = await stack.enter_async_context(self._library.whole(record))
            except LocalError as error:
                raise LocalError(
                    424,
                    "input_unavailable",
                    f"The job needs a file that cannot be had: {error.message}",
                ) from error
            yield path

    async def _send_again(self, record: FileRecord, account: str) -> None:
        """Send an upload to an account that is now at another cloud, if it is in the cache."""
        lease = await asyncio.to_thread(self._cache.lease, record.hash or "")
        if lease is None:
            return
        try:
            received = Received(lease.path, lease.path.name, lease.size)
            cloud_name = await self._uploads.ensure_sent(account, received, record.filename)
        finally:
            lease.release()
        await self._write(record, replace(record, cloud_name=cloud_name))

    async def _write(self, record: FileRecord, changed: FileRecord) -> None:
        """Write what is known now of a file, if it is still the same."""
        async with self._namespace.lock(record.member):
            if await self._namespace.get(record.member, record.place) == record:
                await self._namespace.put([changed])

    async def _hash(self, record: FileRecord) -> str | None:
        return record.hash or await self._contents.hash_of(record.account, record.cloud_name)
