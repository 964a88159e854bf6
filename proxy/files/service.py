"""Files for the rest of the proxy: local names with the cloud's contents."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import (
    AsyncIterator,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import structlog
from blake3 import blake3

from proxy.files import conversions, picture_tasks, pictures
from proxy.files.contents import ContentBrokenError
from proxy.files.conversions import Conversion
from proxy.files.disk_folder import DiskFolder
from proxy.files.graph_files import GraphFiles
from proxy.files.library import Library
from proxy.files.namespace import Named, Namespace, make_record
from proxy.files.opened_pictures import NotAPictureError
from proxy.files.output_directory import OutputDirectory
from proxy.files.output_names import Outputs
from proxy.files.picture_workflows import JobWorkflows
from proxy.files.reader import Reader
from proxy.files.upload_names import Naming
from proxy.files.uploads import Received, Uploads
from proxy.runtime import clock, randomness
from proxy.runtime.shared_work import SharedWork
from proxy.storage.assets import TooManyAssetsError
from proxy.storage.database import StorageError
from proxy.storage.file_tables import FileRecord
from proxy.translate import names
from proxy.translate.assets import Asset, of_file
from proxy.translate.errors import LocalError
from proxy.translate.names import Place

_log = structlog.get_logger(__name__)


def _record_of(record: FileRecord) -> Asset:
    """Return an asset of a file without one, always the same."""
    return of_file(
        record.member,
        str(uuid5(NAMESPACE_URL, f"{record.member}/{record.type}/{record.path}")),
        record.place,
        round(record.modified * 1e6),
        content=(record.hash, record.size),
        job=record.job,
    )


class Files:
    """The files of all members: their names (`namespace`, `outputs`), and their contents.

    The contents are in the `library`; `preferred` returns the accounts to which a member's upload
    may be sent, the best first (default: all). Outputs are also written
    to the `output_folder`, if there is one, with `output_links` as hard links where possible.
    """

    def __init__(
        self,
        library: Library,
        *,
        preferred: Callable[[str], Sequence[str]] | None = None,
        output_folder: DiskFolder | None = None,
        output_links: bool = False,
        workflows: JobWorkflows | None = None,
    ) -> None:
        self.library = library
        self.cache = library.cache
        self._repository = library.files
        self.picture_workers = pictures.PictureWorkers()
        self.namespace = Namespace(library.files, library.inputs)
        preferred = preferred or (lambda _: tuple(library.clouds))
        self.uploads = Uploads(library, self.namespace, preferred, self.picture_workers)
        self.graphs = GraphFiles(self.namespace, self.uploads)
        self.outputs = Outputs(library, self.namespace, self.picture_workers, output_folder)
        self._reader = Reader(library, self.namespace, workflows)
        #: Opens a file's content.
        self.open = self._reader.open
        #: Returns a value of the cloud with the member's names of files.
        self.reveal = self.namespace.revealed
        self.output_directory = None
        if output_folder is not None:
            self.output_directory = OutputDirectory(
                output_folder, self._reader, self.namespace, library.files, links=output_links
            )
        self._converting: SharedWork[tuple[FileRecord, str], bytes] = SharedWork()

    async def start(self) -> None:
        """Read the cache from disk. Raises `StorageError`, `OSError`."""
        await self.library.contents.load()
        self.library.start()
        await asyncio.to_thread(self.cache.start)

    async def close(self) -> None:
        """Stop all downloads and conversions."""
        await self.library.close()
        await self._converting.close()
        await self.picture_workers.close()

    async def upload(
        self,
        member: str,
        body: AsyncIterator[bytes],
        *,
        filename: str,
        subfolder: str = "",
        type: str = "input",  # noqa: A002
        overwrite: bool = False,
        original: Mapping[str, Any] | None = None,
    ) -> Named:
        """Store a file as `POST /upload/image`, or with `original` that picture with the file as
        its mask, as `POST /upload/mask`.

        If other bytes have the name, ` (1)`, ` (2)`… are tried, or with `overwrite` the file is
        replaced. Raises `LocalError` for invalid names, for files that the cloud refuses, and if
        mask or original is not a picture, the original is missing, or their sizes differ;
        `StorageError`.
        """
        naming = await self._naming(member, filename, subfolder, type, overwrite)
        picture = None
        if original is not None:
            picture = await self.namespace.get(member, conversions.original_place(original))
            if picture is None:
                raise conversions.missing_original()
        async with self.uploads.received(member, body, filename) as received:
            named, is_there = await naming.name(received.hash)
            if picture is None:
                if not is_there or await self.uploads.find_sent(member, received.hash) is None:
                    named = await self._store(naming, received.hash, received)
            elif not is_there:
                async with self.uploads.partial() as path:
                    composed = await self._compose(picture, received.path, path, filename)
                    named = await self._store(naming, received.hash, composed)
                    return await self._recorded(member, named, composed)
            return await self._recorded(member, named, received)

    async def _store(self, naming: Naming, hash_: str, received: Received) -> Named:
        """Send bytes to the cloud and name them; `hash_` is that of the client's bytes."""
        filename = posixpath.basename(naming.filename)
        sent = await self.uploads.send(naming.member, received, filename)
        return await naming.give_name(hash_, received, sent, modified=clock.time())

    async def _recorded(self, member: str, named: Named, received: Received) -> Named:
        """Return the result of an upload with a new record; its failure is only logged."""
        place = names.upload_place(named.name, named.subfolder, named.type)
        record = None if place is None else await self.namespace.get(member, place)
        if record is None:
            return named
        asset = of_file(
            member,
            str(randomness.uuid4()),
            record.place,
            clock.microseconds(),
            content=(record.hash, record.size),
            metadata=received.metadata,
            extra=("uploaded",),
        )
        try:
            await self._repository.write(lambda files: files.assets.add(asset))
        except (StorageError, TooManyAssetsError) as error:
            _log.warning("asset_record_failed", reason=str(error) or "there are too many")
            return named
        return replace(named, asset=asset)

    async def find(
        self, member: str, type_: str, subfolder: str, filename: str
    ) -> FileRecord | None:
        """Return the member's file of that name, or `None`. The names are untrusted."""
        path = names.resolve(type_, subfolder, filename) if type_ in names.TYPES else None
        return await self.namespace.get(member, Place(type_, path)) if path else None

    async def keep(self, member: str, received: Received, type_: str, filename: str) -> Named:
        """Give bytes that `uploads` received a name in the top folder of a type.

        Raises `LocalError`, `StorageError`.
        """
        naming = await self._naming(member, filename, "", type_, False)
        return await self._store(naming, received.hash, received)

    async def add_missing_assets(self, member: str) -> int:
        """Add the assets of a member's files that have none; return their number. Raises
        `StorageError`."""
        return await self._repository.add_missing_assets(member, _record_of)

    async def convert(self, record: FileRecord, wanted: Conversion) -> bytes:
        """Return a converted picture.

        Raises `LocalError`: 400 if the file is not a picture or has too many pixels, otherwise as
        `open`.
        """
        try:
            return await self._converting.get(
                (record, wanted.key), lambda: self._convert(record, wanted)
            )
        except NotAPictureError as error:
            raise pictures.unreadable(record.filename, error) from error

    @asynccontextmanager
    async def output(
        self, member: str, item: Mapping[str, Any], *, account: str
    ) -> AsyncIterator[Path]:
        """Yield the complete file of an account by an item of the cloud (`filename`, `type`).

        Raises `LocalError` if it is not available.
        """
        name, stated = str(item["filename"]), item.get("type")
        record = make_record(
            member,
            Place("temp", name),
            cloud_name=name,
            cloud_type=stated if stated in names.TYPES else "output",
            modified=clock.time(),
            account=account,
        )
        lease = await self.library.whole(record)
        yield lease.path

    async def _naming(
        self, member: str, filename: str, subfolder: str, type_: str, overwrite: bool
    ) -> Naming:
        naming = Naming(self.namespace, self._holds, member, filename, subfolder, type_, overwrite)
        await naming.check()
        return naming

    async def _compose(
        self, record: FileRecord, mask: Path, target: Path, filename: str
    ) -> Received:
        try:
            with closing(await self.open(record)) as content:
                known = await self._reader.names_for(record, await content.texts())
            lease = await self.library.whole(record)
            await self.picture_workers.run(
                record.member,
                picture_tasks.compose,
                [lease.path, mask],
                [target],
                filename=filename,
                names=known,
            )
            return await self.uploads.made(record.member, target)
        except NotAPictureError as error:
            raise pictures.unreadable(filename, error) from error

    async def _holds(self, record: FileRecord, hash_: str) -> bool:
        """Return whether a file's bytes, unedited or edited, have the hash.

        A content that is not available counts as another one.
        """
        known = await self.library.contents.hash_of(record)
        if known == hash_:
            return True
        try:
            with closing(await self.open(record)) as content:
                if known is None and (await content.whole()).name == hash_:
                    return True
                if not content.edits.edits:
                    return False
                hasher = blake3()
                async for data in content.read():
                    hasher.update(data)
                return hasher.hexdigest() == hash_
        except (LocalError, ContentBrokenError):
            return False

    async def _convert(self, record: FileRecord, wanted: Conversion) -> bytes:
        lease = await self.library.whole(record)
        key = blake3(f"{lease.path.name} {wanted.key}".encode()).hexdigest()
        kept = await asyncio.to_thread(self.cache.conversion, key, record.member)
        if kept is not None:
            return kept
        async with self.uploads.partial() as target:
            await self.picture_workers.convert(record.member, lease.path, target, wanted)
            return await asyncio.to_thread(self.cache.keep_conversion, key, target, record.member)
