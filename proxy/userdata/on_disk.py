"""Every member's user data and settings on the proxy's disk, without blocking the event loop.

A change that has begun goes on to its end in its thread, whether or not the client waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.userdata.base import Entry
from proxy.userdata.disk import Disk
from proxy.userdata.names import member_folder
from proxy.userdata.settings import FILE, SettingsFile


class UserDataOnDisk:
    """The members' folders below `folder`. Methods raise what those of `Disk` raise."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members: dict[str, tuple[Disk, SettingsFile]] = {}

    async def start(self) -> None:
        """Remove what a process that was killed had begun to write."""
        await asyncio.to_thread(Disk(self._folder).tidy)

    async def read(self, member: str, name: str) -> Path:
        """Where a file or folder is."""
        return await asyncio.to_thread(self._disk(member).find, name)

    async def usage(self, member: str, name: str = FILE) -> tuple[int, int]:
        """The bytes that a member has stored, and how many a write to `name` takes the place of."""
        return await asyncio.to_thread(self._disk(member).usage, name)

    async def write(self, member: str, name: str, data: bytes, *, overwrite: bool = True) -> Entry:
        """Write a file, whole or not at all."""
        return await asyncio.to_thread(self._disk(member).write, name, data, overwrite=overwrite)

    async def delete(self, member: str, name: str) -> None:
        """Remove a file."""
        await asyncio.to_thread(self._disk(member).delete, name)

    async def move(self, member: str, name: str, target: str, *, overwrite: bool = True) -> Entry:
        """Give a file another name."""
        return await asyncio.to_thread(self._disk(member).move, name, target, overwrite=overwrite)

    async def files(self, member: str, name: str, *, recurse: bool) -> list[Entry]:
        """The files in a folder, by their paths from it."""
        return await asyncio.to_thread(self._disk(member).files, name, recurse=recurse)

    async def tree(self, member: str, name: str) -> list[Entry]:
        """All folders and files below a folder, by their paths from the member's."""
        return await asyncio.to_thread(self._disk(member).tree, name)

    async def settings(self, member: str) -> dict[str, Any]:
        """All settings of the member."""
        return await asyncio.to_thread(self._of(member)[1].read)

    async def setting(self, member: str, name: str) -> Any:
        """The value of one setting, or `None`."""
        return (await self.settings(member)).get(name)

    async def change_settings(self, member: str, changes: Mapping[str, Any]) -> None:
        """Set some settings and keep the others."""
        await asyncio.to_thread(self._of(member)[1].change, changes)

    def _disk(self, member: str) -> Disk:
        return self._of(member)[0]

    def _of(self, member: str) -> tuple[Disk, SettingsFile]:
        if member not in self._members:
            disk = Disk(self._folder / member_folder(member))
            self._members[member] = disk, SettingsFile(disk)
        return self._members[member]
