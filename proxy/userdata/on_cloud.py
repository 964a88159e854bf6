"""User data and settings of the Comfy Cloud account itself: what its own web interface shows.

The cloud has files and no folders: a folder is there while a file is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from proxy.cloud.client import UserDataCalls
from proxy.cloud.resilience import CloudError, CloudRefused
from proxy.translate.as_cloud import UserFile
from proxy.translate.errors import LocalError, from_cloud
from proxy.userdata.stored import (
    BadNameError,
    IsFileError,
    MissingError,
    StoredUserData,
    TakenError,
    UserDataEntry,
    in_tree_order,
    is_listed,
    parts_of,
)


class UserDataOnCloud:
    """The account's settings and files, regardless of the caller.

    It is for a proxy without members: as soon as `shared` says that there are some, it refuses.
    """

    def __init__(self, calls: UserDataCalls, *, shared: Callable[[], bool] = lambda: False) -> None:
        self._account = calls
        self._shared = shared

    @property
    def _calls(self) -> UserDataCalls:
        if self._shared():
            raise LocalError(
                "user_data_of_one",
                "userdata = cloud does not support members: set userdata = disk.",
                kind="forbidden",
            )
        return self._account

    async def read(self, _: str, name: str) -> tuple[bytes, None]:
        """A file's content; the cloud tells neither a tag nor a time with it."""
        with _told_of_files():
            return await self._calls.read(_there(name)), None

    async def write(
        self, _: str, name: str, data: bytes, *, overwrite: bool = True, most: int | None = None
    ) -> UserDataEntry:
        """Write a file, which takes no room here. Raises `TakenError` unless it may `overwrite`."""
        path = _place(name)
        with _told_of_files():
            return _entry(await self._calls.write(path, data, overwrite=overwrite))

    async def delete(self, _: str, name: str) -> None:
        """Remove a file."""
        with _told_of_files():
            await self._calls.delete(_there(name))

    async def move(
        self, _: str, name: str, target: str, *, overwrite: bool = True, most: int | None = None
    ) -> UserDataEntry:
        """Give a file another name. Raises `TakenError`."""
        path, there = _there(name), _place(target)
        with _told_of_files():
            return _entry(await self._calls.move(path, there, overwrite=overwrite))

    async def files(self, _: str, name: str, *, recurse: bool) -> list[UserDataEntry]:
        """The files in a folder, by their paths from it; hidden ones are left out."""
        found = [_entry(file) for file in await self._below("/".join(_steps(name)))]
        return sorted(
            (entry for entry in found if is_listed(entry.path, recurse=recurse)),
            key=lambda entry: entry.path,
        )

    async def tree(self, _: str, name: str) -> list[UserDataEntry]:
        """All folders and files below a folder, by their paths from the top."""
        folder = "/".join(_steps(name))
        prefix = f"{folder}/" if folder else ""
        try:
            below = await self._below(folder)
        except MissingError:
            above, _, last = folder.rpartition("/")
            if last in {file.path for file in await self._below(above)}:
                raise IsFileError from None
            raise
        files = [_entry(file, prefix) for file in below]
        return sorted([*files, *_folders(files, prefix)], key=in_tree_order)

    async def settings(self, _: str) -> dict[str, Any]:
        """All settings."""
        with _told():
            return await self._calls.settings()

    async def setting(self, _: str, name: str) -> Any:
        """The value of one setting, or `None`."""
        with _told():
            return await self._calls.setting(name)

    async def change_settings(
        self, _: str, changes: Mapping[str, Any], *, most: int | None = None
    ) -> None:
        """Set some settings and keep the others."""
        with _told():
            await self._calls.change_settings(changes)

    async def _below(self, folder: str) -> list[UserFile]:
        """Raises `MissingError` for a folder without files, unless it is the top."""
        with _told_of_files():
            found = await self._calls.files(folder)
        if folder and not found:
            raise MissingError(folder)
        return found


#: The members' files and settings, wherever they are.
UserData: TypeAlias = StoredUserData | UserDataOnCloud


@contextmanager
def _told() -> Iterator[None]:
    """Say what the cloud's refusals to do with settings mean here."""
    try:
        yield
    except CloudRefused as error:
        raise from_cloud(error.status, error.body, error.retry_after) from error
    except CloudError as error:
        raise LocalError(
            "user_data_unavailable",
            "Comfy Cloud did not return the user data of the account; try again later.",
            kind="unavailable",
            details=str(error),
            retry_after=error.retry_after,
        ) from error


@contextmanager
def _told_of_files() -> Iterator[None]:
    """Say what the cloud's refusals to do with files mean here."""
    with _told():
        try:
            yield
        except CloudRefused as error:
            if error.status == 404:
                raise MissingError from error
            if error.status == 409:
                raise TakenError from error
            if error.status == 400:
                raise BadNameError(str(error)) from error
            raise


def _steps(name: str) -> tuple[str, ...]:
    """The way to what is to be there already. Raises `MissingError` and `LeadsOutError`."""
    try:
        return parts_of(name)
    except BadNameError as error:
        raise MissingError(name) from error


def _there(name: str) -> str:
    """The path of a file that is to be there already; the top is none."""
    steps = _steps(name)
    if not steps:
        raise MissingError(name)
    return "/".join(steps)


def _place(name: str) -> str:
    """A path to write to. Raises `BadNameError` and `LeadsOutError`."""
    steps = parts_of(name)
    if not steps:
        raise BadNameError(name)
    return "/".join(steps)


def _folders(files: Iterable[UserDataEntry], prefix: str) -> list[UserDataEntry]:
    """The folders in which files are, each with the time of the newest file below it."""
    newest: dict[str, float] = {}
    for file in files:
        steps = file.path.removeprefix(prefix).split("/")[:-1]
        for count in range(1, len(steps) + 1):
            path = prefix + "/".join(steps[:count])
            newest[path] = max(newest.get(path, 0.0), file.modified)
    return [UserDataEntry(path, 0, time, time, is_folder=True) for path, time in newest.items()]


def _entry(file: UserFile, prefix: str = "") -> UserDataEntry:
    """The cloud does not tell when a file was made."""
    return UserDataEntry(prefix + file.path, file.size, file.modified, file.modified)
