"""Names of uploads, chosen as by ComfyUI."""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable

from msgspec import Struct

from proxy.files.namespace import Named, Namespace, make_record
from proxy.files.uploads import Received, SentContent
from proxy.storage.file_tables import FileRecord
from proxy.translate import names
from proxy.translate.errors import LocalError
from proxy.translate.names import Place


class Naming(Struct, frozen=True):
    """Chooses the name of an upload by the rules of ComfyUI 0.3.64's upload routes.

    `holds` returns whether a file's content has a hash. Methods raise `LocalError` (400) for names
    that ComfyUI refuses or fails on.
    """

    namespace: Namespace
    holds: Callable[[FileRecord, str], Awaitable[bool]]
    member: str
    filename: str
    subfolder: str
    type: str
    overwrite: bool

    async def check(self) -> None:
        """Check the name before the body is received. Raises `LocalError`."""
        await self._place_of(self.filename)

    async def name(self, hash_: str) -> tuple[Named, bool]:
        """Return the name that this content would get, and whether a file of that name has it
        already."""
        async with self.namespace.lock(self.member):
            filename, _, known = await self._choose(hash_)
        return Named(filename, self.subfolder, self.type), known is not None

    async def give_name(
        self, hash_: str, content: Received, sent: SentContent, *, modified: float
    ) -> Named:
        """Give the content a name. `hash_` is that of the client's bytes, which differ for masks.

        Raises `StorageError`; then there is no such name.
        """
        async with self.namespace.lock(self.member):
            while True:
                filename, place, known = await self._choose(hash_)
                if known is not None:
                    moved = (known.account, known.cloud_name) != sent
                    if known.hash != content.hash or not moved:
                        break
                record = make_record(
                    self.member,
                    place,
                    cloud_name=sent.cloud_name,
                    cloud_type="input",
                    account=sent.account,
                    modified=modified if known is None else known.modified,
                    content=(content.hash, content.size),
                )
                if known is not None or self.overwrite:
                    await self.namespace.put([record])
                    break
                if await self.namespace.claim(record):
                    break
        return Named(filename, self.subfolder, self.type)

    async def _choose(self, hash_: str) -> tuple[str, Place, FileRecord | None]:
        """Return name and place, and the file there if it has the content. Needs the lock."""
        filename, number = self.filename, 0
        while True:
            place = await self._place_of(filename)
            record = await self.namespace.get(self.member, place)
            if record is None or self.overwrite:
                return filename, place, None
            if await self.holds(record, hash_):
                return filename, place, record
            number += 1
            filename = names.numbered(self.filename, number)

    async def _place_of(self, filename: str) -> Place:
        if self.type not in names.TYPES:
            raise LocalError(
                "invalid_type",
                f"There is no folder of the type {self.type!r}; use input, output or temp.",
            )
        place = names.upload_place(filename, self.subfolder, self.type) if filename else None
        if place is None or not names.is_storable(place.path):
            raise _invalid(filename, "it is not a valid name, too long, or outside the folder")
        parent = Place(self.type, place.subfolder)
        if await self._is_folder(place):
            raise _invalid(filename, "it is the name of a folder")
        if not await self._is_folder(parent):
            raise _invalid(filename, f"the folder {parent.path} does not exist; use subfolder")
        while parent.path:
            if await self.namespace.get(self.member, parent) is not None:
                raise _invalid(filename, f"{parent.path} is a file and not a folder")
            parent = Place(parent.type, parent.subfolder)
        return place

    async def _is_folder(self, place: Place) -> bool:
        """Return whether a place is a folder. The subfolder of the upload counts as one."""
        subfolder = names.resolve(self.type, posixpath.normpath(self.subfolder)) or ""
        made = f"{subfolder}/".startswith(f"{place.path}/")
        return made or await self.namespace.has_folder(self.member, place)


def _invalid(filename: str, reason: str) -> LocalError:
    shown = filename.encode("utf-8", "replace").decode()[:100]
    return LocalError("invalid_filename", f"{shown!r} cannot be stored: {reason}.")
