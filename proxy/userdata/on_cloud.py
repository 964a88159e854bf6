"""User data and settings of the Comfy Cloud account itself: what its own web interface shows.

The cloud has files and no folders: a folder is there while a file is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from msgspec.structs import replace

from proxy.cloud.http import FILE, JSON, Answer, Http
from proxy.cloud.resilience import CloudError, CloudGarbage, CloudRefused
from proxy.translate import codec
from proxy.translate.as_cloud import UserFile, user_file
from proxy.translate.errors import LocalError, from_cloud
from proxy.userdata.stored import (
    DEFAULT_USER,
    BadNameError,
    IsFileError,
    MissingError,
    StoredUserData,
    TakenError,
    UserDataEntry,
    in_tree_order,
    is_listed,
    parts_of,
    path_to,
)


class UserDataOnCloud:
    """The account's settings and files, regardless of the caller.

    It is for a proxy without members: as soon as `shared` says that there are some, it refuses.
    What cannot be repeated without another meaning (to delete, to move, to write only what is not
    there) is tried once.
    """

    def __init__(self, http: Http, *, shared: Callable[[], bool] = lambda: False) -> None:
        self._account = http
        self._shared = shared

    @property
    def _http(self) -> Http:
        if self._shared():
            raise LocalError(
                "user_data_of_one",
                "userdata = cloud does not support members: set userdata = disk.",
                kind="forbidden",
            )
        return self._account

    async def find(self, _: str, name: str) -> None:
        """Return nothing: the cloud tells of a file with its content alone."""

    async def read(self, _: str, name: str) -> tuple[bytes, None]:
        """A file's content; the cloud tells neither a tag nor a time with it."""
        with _told_of_files():
            body = await self._http.get(_body, "userdata", _there(name), limits=FILE)
            return body, None

    async def write(
        self, _: str, name: str, data: bytes, *, overwrite: bool = True, most: int | None = None
    ) -> UserDataEntry:
        """Write a file, which takes no room here. Raises `TakenError` unless it may `overwrite`."""
        path = _place(name)
        with _told_of_files():
            http = self._http
            url = http.url("userdata", path, overwrite=_flag(overwrite), full_info="true")
            if overwrite:
                return await http.read("POST", url, _file, data=data)
            return _file(await http.once("POST", url, data=data))

    async def delete(self, _: str, name: str) -> None:
        """Remove a file."""
        with _told_of_files():
            http = self._http
            await http.once("DELETE", http.url("userdata", _there(name)))

    async def move(
        self, _: str, name: str, target: str, *, overwrite: bool = True, most: int | None = None
    ) -> UserDataEntry:
        """Give a file another name. Raises `TakenError`."""
        path = ("userdata", _there(name), "move", _place(target))
        with _told_of_files():
            http = self._http
            url = http.url(*path, overwrite=_flag(overwrite), full_info="true")
            return _file(await http.once("POST", url))

    async def files(self, _: str, name: str, *, recurse: bool) -> list[UserDataEntry]:
        """The files in a folder, by their paths from it; hidden ones are left out."""
        found = await self._below(path_to(name))
        return sorted(
            (entry for entry in found if is_listed(entry.path, recurse=recurse)),
            key=lambda entry: entry.path,
        )

    async def tree(self, _: str, name: str) -> list[UserDataEntry]:
        """All folders and files below a folder, by their paths from the top."""
        folder = path_to(name)
        prefix = f"{folder}/" if folder else ""
        try:
            below = await self._below(folder)
        except MissingError:
            above, _, last = folder.rpartition("/")
            if last in {file.path for file in await self._below(above)}:
                raise IsFileError from None
            raise
        files = [replace(file, path=prefix + file.path) for file in below]
        return sorted([*files, *_folders(files, prefix)], key=in_tree_order)

    async def settings(self, _: str) -> dict[str, Any]:
        """All settings."""
        with _told():
            return await self._http.get(Answer.object, "settings")

    async def setting(self, _: str, name: str) -> Any:
        """The value of one setting, or `None`."""
        with _told():
            return await self._http.lookup(_value, "settings", name)

    async def change_settings(
        self, _: str, changes: Mapping[str, Any], *, most: int | None = None
    ) -> None:
        """Set some settings and keep the others."""
        with _told():
            http, body = self._http, codec.dump_bytes(dict(changes))
            await http.read("POST", http.url("settings"), lambda _: None, data=body, headers=JSON)

    async def add_user(self, _: str, name: str) -> bool:
        """Say whether a user's name is new: the account has one user."""
        return name != DEFAULT_USER

    async def _below(self, folder: str) -> list[UserDataEntry]:
        """All files below a folder (`""`: all), by their paths from it. Raises `MissingError` for a
        folder without files, unless it is the top."""
        with _told_of_files():
            found = await self._http.get(_files, "userdata", dir=f"{folder}/", recurse="true")
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


def _there(name: str) -> str:
    """The path of a file that is to be there already; the top is none."""
    path = path_to(name)
    if not path:
        raise MissingError(name)
    return path


def _place(name: str) -> str:
    """A path to write to. Raises `BadNameError` and `LeadsOutError`."""
    path = "/".join(parts_of(name))
    if not path:
        raise BadNameError(name)
    return path


def _folders(files: Iterable[UserDataEntry], prefix: str) -> list[UserDataEntry]:
    """The folders in which files are, each with the time of the newest file below it."""
    newest: dict[str, float] = {}
    for file in files:
        steps = file.path.removeprefix(prefix).split("/")[:-1]
        for count in range(1, len(steps) + 1):
            path = prefix + "/".join(steps[:count])
            newest[path] = max(newest.get(path, 0.0), file.modified)
    return [UserDataEntry(path, 0, time, time, is_folder=True) for path, time in newest.items()]


def _entry(file: UserFile) -> UserDataEntry:
    """The cloud does not tell when a file was made."""
    return UserDataEntry(file.path, file.size, file.modified, file.modified)


def _body(answer: Answer) -> bytes:
    return answer.body


def _file(answer: Answer) -> UserDataEntry:
    file = user_file(answer.object())
    if file is None:
        raise CloudGarbage(f"{answer.call}: no path in the answer")
    return _entry(file)


def _files(answer: Answer) -> list[UserDataEntry]:
    return [_entry(file) for file in map(user_file, answer.objects()) if file is not None]


def _value(answer: Answer) -> Any:
    said = answer.object()
    if "value" not in said:
        raise CloudGarbage(f"{answer.call}: no value in the answer")
    return said["value"]


def _flag(value: bool) -> str:
    return str(value).lower()
