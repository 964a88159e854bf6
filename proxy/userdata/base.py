"""What user data is: files, folders, settings, and their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

#: Folders within folders, and bytes of a name, as most file systems have it.
MOST_STEPS, LONGEST_STEP = 100, 255

_PLAIN_MEMBER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_NOT_ON_WINDOWS = re.compile(
    r"[<>:\"|?*\x00-\x1f]|[. ]$|^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE
)


class LeadsOutError(Exception):
    """The name leads out of the member's folder."""


class BadNameError(Exception):
    """No file can have this name, or not there: it is too long, or a folder is in its place."""


def parts_of(name: str) -> tuple[str, ...]:
    """The steps from the member's folder to what `name` means; none for the folder itself.

    As in ComfyUI the name is unescaped once more than the URL was. A backslash counts as a slash,
    so that the name means the same on every system. Raises `LeadsOutError` and `BadNameError`.
    """
    if "%" in name:
        name = unquote(name)
    folded = name.replace("\\", "/")
    if folded.startswith("/"):
        raise LeadsOutError(name)
    steps: list[str] = []
    for step in folded.split("/"):
        if step == "..":
            if not steps:
                raise LeadsOutError(name)
            steps.pop()
        elif step not in ("", "."):
            if "\0" in step or len(step.encode(errors="surrogatepass")) > LONGEST_STEP:
                raise BadNameError(step)
            steps.append(step)
    if len(steps) > MOST_STEPS:
        raise BadNameError(name)
    return tuple(steps)


def member_folder(member: str) -> str:
    """The name of a member's folder in 0.1.0: two members never shared one, on no file system."""
    if _PLAIN_MEMBER.fullmatch(member) and not _NOT_ON_WINDOWS.search(member):
        return member
    return "_" + hashlib.sha256(member.encode(errors="surrogatepass")).hexdigest()[:32]


class MissingError(Exception):
    """There is no file or folder of that name."""


class TakenError(Exception):
    """There is a file of that name, and it was not to be overwritten."""


class FullError(Exception):
    """More would be stored than the member may. `stored` is what is there, in bytes."""

    def __init__(self, stored: int) -> None:
        super().__init__(stored)
        self.stored = stored


class IsFolderError(Exception):
    """What was to be a file is a folder."""


class IsFileError(Exception):
    """What was to be a folder is a file."""


@dataclass(frozen=True, slots=True)
class UserDataEntry:
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

    Methods raise `LeadsOutError`; `MissingError` for what is not there and could not be;
    `BadNameError` for what cannot be written there; `StorageError` when the database refuses and
    `LocalError` when the cloud does. Where `most` is given, `FullError` when the proxy would store
    more than this many bytes for the member.
    """

    async def read(self, member: str, name: str) -> tuple[bytes, UserDataEntry | None]:
        """A file's content, and what is known of it. Raises `IsFolderError` for a folder."""

    async def write(
        self,
        member: str,
        name: str,
        data: bytes,
        *,
        overwrite: bool = True,
        most: int | None = None,
    ) -> UserDataEntry:
        """Write a file, whole or not at all. Raises `TakenError` unless it may `overwrite`."""

    async def delete(self, member: str, name: str) -> None:
        """Remove a file. Raises `IsFolderError` for a folder."""

    async def move(
        self,
        member: str,
        name: str,
        target: str,
        *,
        overwrite: bool = True,
        most: int | None = None,
    ) -> UserDataEntry:
        """Give a file another name. Raises `TakenError` and `IsFolderError`."""

    async def files(self, member: str, name: str, *, recurse: bool) -> list[UserDataEntry]:
        """The files in a folder, by their paths from it; hidden ones are left out."""

    async def tree(self, member: str, name: str) -> list[UserDataEntry]:
        """All folders and files below a folder, by their paths from the member's.

        Folders come first, then by name in small letters. Raises `IsFileError`.
        """

    async def settings(self, member: str) -> dict[str, Any]:
        """All settings."""

    async def setting(self, member: str, name: str) -> Any:
        """The value of one setting, or `None`."""

    async def change_settings(
        self, member: str, changes: Mapping[str, Any], *, most: int | None = None
    ) -> None:
        """Set some settings and keep the others."""


def in_tree_order(entry: UserDataEntry) -> tuple[bool, str]:
    """The key by which a tree is sorted."""
    return not entry.is_folder, entry.name.lower()


def is_listed(path: str, *, recurse: bool) -> bool:
    """Whether a list of files has this one, by its path from the folder: no hidden ones."""
    steps = path.split("/")
    return (recurse or len(steps) == 1) and not any(step.startswith(".") for step in steps)
