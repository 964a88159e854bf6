"""Which name an upload gets: the rules of ComfyUI 0.3.64's upload routes."""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable

from proxy.files.namespace import Named, Namespace, Received, SentContent, make_record
from proxy.storage.files import FileRecord
from proxy.translate import names
from proxy.translate.errors import LocalError
from proxy.translate.names import Place


class Naming:
    """The choice of a name for one upload of a member.

    `holds` says whether a file's content has a hash. Raises `LocalError` (400) where ComfyUI
    refuses the name or fails on it.
    """

    def __init__(
        self,
        namespace: Namespace,
        holds: Callable[[FileRecord, str], Awaitable[bool]],
        *,
        member: str,
        filename: str,
        subfolder: str,
        type_: str,
        overwrite: bool,
    ) -> None:
        self._namespace = namespace
        self._holds = holds
        self._member = member
        self._filename = filename
        self._subfolder = subfolder
        self._type = type_
        self._overwrite = overwrite

    async def check(self) -> None:
        """Raises `LocalError` if the name cannot be given, before anything is received."""
        await self._place_of(self._filename)

    async def same(self, hash_: str) -> Named | None:
        """The answer if a file of the name has this content already, so that nothing is to do."""
        if self._overwrite:
            return None
        async with self._namespace.lock(self._member):
            filename, _, found = await self._choose(hash_)
        return self._named(filename) if found else None

    async def name_only(self, hash_: str) -> Named:
        """The answer for an upload of which nothing is kept."""
        async with self._namespace.lock(self._member):
            filename, _, _ = await self._choose(hash_)
        return self._named(filename)

    async def take(
        self, hash_: str, content: Received, sent: SentContent, *, modified: float
    ) -> Named:
        """Give the content a name. `hash_` is of the bytes that were sent, for masks not the same.

        Raises `StorageError`; then the name is not given.
        """
        async with self._namespace.lock(self._member):
            while True:
                filename, place, found = await self._choose(hash_)
                known = await self._namespace.get(self._member, place) if found else None
                moved = known is not None and known.hash == content.hash
                if known is not None and not (moved and (known.account, known.cloud_name) != sent):
                    break
                record = make_record(
                    self._member,
                    place,
                    cloud_name=sent.cloud_name,
                    cloud_type="input",
                    account=sent.account,
                    modified=modified if known is None else known.modified,
                    content=(content.hash, content.size),
                )
                if known is not None or self._overwrite:
                    await self._namespace.put([record])
                    break
                if await self._namespace.claim(record):
                    break
        return self._named(filename)

    async def _choose(self, hash_: str) -> tuple[str, Place, bool]:
        """Name and place, and whether the file there has the content. The lock is held."""
        filename, number = self._filename, 0
        while True:
            place = await self._place_of(filename)
            record = await self._namespace.get(self._member, place)
            if record is None or self._overwrite:
                return filename, place, False
            if await self._holds(record, hash_):
                return filename, place, True
            number += 1
            filename = names.numbered(self._filename, number)

    async def _place_of(self, filename: str) -> Place:
        if self._type not in names.TYPES:
            raise LocalError(
                "invalid_type",
                f"There is no folder of the type {self._type!r}; use input, output or temp.",
            )
        place = names.upload_place(filename, self._subfolder, self._type) if filename else None
        if place is None or not names.is_storable(place.path):
            raise _invalid(filename, "it is not a valid name, too long, or outside the folder")
        parent = Place(self._type, place.subfolder)
        if await self._is_folder(place):
            raise _invalid(filename, "it is the name of a folder")
        if not await self._is_folder(parent):
            raise _invalid(filename, f"the folder {parent.path} does not exist; use subfolder")
        while parent.path:
            if await self._namespace.get(self._member, parent) is not None:
                raise _invalid(filename, f"{parent.path} is a file and not a folder")
            parent = Place(parent.type, parent.subfolder)
        return place

    async def _is_folder(self, place: Place) -> bool:
        """Also of the subfolder, which is made with those above it before anything is written."""
        subfolder = names.resolve(self._type, posixpath.normpath(self._subfolder)) or ""
        made = f"{subfolder}/".startswith(f"{place.path}/")
        return made or await self._namespace.has_folder(self._member, place)

    def _named(self, filename: str) -> Named:
        return Named(filename, self._subfolder, self._type)


def _invalid(filename: str, reason: str) -> LocalError:
    shown = filename.encode("utf-8", "replace").decode()[:100]
    return LocalError("invalid_filename", f"{shown!r} cannot be stored: {reason}.")
