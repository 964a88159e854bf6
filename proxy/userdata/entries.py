"""Names, entries and errors of user data."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from msgspec import Struct

#: Maximum number of nested folders, and maximum bytes of a name, as in common file systems.
MAX_DEPTH, MAX_NAME_BYTES = 100, 255


class LeadsOutError(Exception):
    """Raised for a name that leads out of the member's folder."""


class BadNameError(Exception):
    """Raised for a name that no file can have: it is too long, or a folder has it."""


class MissingError(Exception):
    """Raised for the name of no file or folder."""


class TakenError(Exception):
    """Raised for the name of an existing file that must not be overwritten."""


class FullError(Exception):
    """Raised for a write beyond the member's limit. `stored` is the current total in bytes."""

    def __init__(self, stored: int) -> None:
        super().__init__(stored)
        self.stored = stored


class IsFolderError(Exception):
    """Raised for a folder in place of a file."""


class IsFileError(Exception):
    """Raised for a file in place of a folder."""


class UserDataEntry(Struct, frozen=True):
    """A file or folder, with its path from the member's folder or from the listed one.

    Times are seconds since 1970.
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

    def listed(self) -> dict[str, Any]:
        """Return the entry as ComfyUI's `GET /v2/userdata` lists it."""
        if self.is_folder:
            return {"name": self.name, "path": self.path, "type": "directory"}
        return {
            "name": self.name,
            "path": self.path,
            "type": "file",
            "size": self.size,
            "modified": self.modified,
        }


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of the path that `name` means, none for the member's folder itself.

    As in ComfyUI the name is unescaped once more after the URL. A backslash counts as a slash, so
    that a name means the same on every system. Raises `LeadsOutError` and `BadNameError`.
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
            if "\0" in step or len(step.encode(errors="surrogatepass")) > MAX_NAME_BYTES:
                raise BadNameError(step)
            steps.append(step)
    if len(steps) > MAX_DEPTH:
        raise BadNameError(name)
    return tuple(steps)


def new_path(name: str) -> str:
    """Return a path to write to. Raises `BadNameError` and `LeadsOutError`."""
    path = "/".join(parts_of(name))
    if not path:
        raise BadNameError(name)
    return path


def path_to(name: str) -> str:
    """Return the path of an existing file or folder, empty for the member's folder itself. Raises
    `MissingError` and `LeadsOutError`."""
    try:
        return "/".join(parts_of(name))
    except BadNameError as error:
        raise MissingError(name) from error


def in_tree_order(entry: UserDataEntry) -> tuple[bool, str]:
    """Return the sort key of a tree: folders first, then by name, ignoring case."""
    return not entry.is_folder, entry.name.lower()


def is_listed(path: str, *, recurse: bool) -> bool:
    """Return whether a list of files contains this path relative to the folder: not if hidden."""
    steps = path.split("/")
    return (recurse or len(steps) == 1) and not any(step.startswith(".") for step in steps)
