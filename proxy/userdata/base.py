"""What both kinds of user data have in common: their words, their errors and the one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class TakenError(Exception):
    """There is a file of that name, and it was not to be overwritten."""


class IsFolderError(Exception):
    """What was to be a file is a folder."""


class IsFileError(Exception):
    """What was to be a folder is a file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder: its path from the member's folder or from the one that was listed.

    Times are seconds since 1970; `created` is what the system has nearest to that.
    """

    path: str
    size: int
    modified: float
    created: float
    is_folder: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class UserData(Protocol):
    """The members' files and settings.

    Methods raise `LeadsOutError`; `FileNotFoundError` for what is not there and could not be;
    `BadNameError` for what cannot be written there; `StorageError` when the disk refuses and
    `LocalError` when the cloud does.
    """

    async def start(self) -> None:
        """Be ready to answer."""

    async def read(self, member: str, name: str) -> Path | bytes:
        """A file: where it is on this machine's disk, or else its content."""

    async def usage(self, member: str, name: str = ...) -> tuple[int, int]:
        """The bytes that a member has on the proxy's disk, and how many of them a write to `name`
        (the settings if it is not given) takes the place of; negative for what it adds beside."""

    async def write(self, member: str, name: str, data: bytes, *, overwrite: bool = True) -> Entry:
        """Write a file, whole or not at all. Raises `TakenError` unless it may `overwrite`."""

    async def delete(self, member: str, name: str) -> None:
        """Remove a file. Raises `IsFolderError` for a folder."""

    async def move(self, member: str, name: str, target: str, *, overwrite: bool = True) -> Entry:
        """Give a file another name. Raises `TakenError` and `IsFolderError`."""

    async def files(self, member: str, name: str, *, recurse: bool) -> list[Entry]:
        """The files in a folder, by their paths from it; hidden ones are left out."""

    async def tree(self, member: str, name: str) -> list[Entry]:
        """All folders and files below a folder, by their paths from the member's.

        Folders come first, then by name in small letters. Raises `IsFileError`.
        """

    async def settings(self, member: str) -> dict[str, Any]:
        """All settings."""

    async def setting(self, member: str, name: str) -> Any:
        """The value of one setting, or `None`."""

    async def change_settings(self, member: str, changes: Mapping[str, Any]) -> None:
        """Set some settings and keep the others."""


def in_tree_order(entry: Entry) -> tuple[bool, str]:
    """The key by which a tree is sorted."""
    return not entry.is_folder, entry.name.lower()
