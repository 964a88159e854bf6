"""User data and settings of the Comfy Cloud account, which its own web interface shows.

The cloud has files but no folders: a folder exists while a file is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from msgspec.structs import replace

from proxy.cloud.answers import FILE, Answer, status_only
from proxy.cloud.calls import JSON
from proxy.cloud.errors import CloudError, CloudGarbage, CloudRefused
from proxy.cloud.http import Http
from proxy.translate import codec
from proxy.translate.as_cloud import UserFile, user_file
from proxy.translate.errors import LocalError, from_cloud
from proxy.userdata.entries import (
    BadNameError,
    IsFileError,
    MissingError,
    TakenError,
    UserDataEntry,
    in_tree_order,
    is_listed,
    new_path,
    path_to,
)
from proxy.userdata.stored import DEFAULT_USER, StoredUserData


class UserDataOnCloud:
    """The account's settings and files, the same for every client.

    It is for a proxy without members: when `shared` returns true, methods raise `LocalError` (403).
    Calls that are not idempotent (deleting, moving, writing without overwriting) are tried once.
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
        """Return nothing: the cloud has no call for a file without its content."""

    async def read(self, _: str, name: str) -> tuple[bytes, None]:
        """Return a file's content; the cloud sends no time with it. Raises `MissingError`."""
        with _translated_file_errors():
            http = self._http
            call = http.call("GET", "userdata/{file}", file=_existing_path(name))
            return await http.read(call, _body, limits=FILE), None

    async def write(
        self,
        _: str,
        name: str,
        data: bytes,
        *,
        overwrite: bool = True,
        max_bytes: int | None = None,
    ) -> UserDataEntry:
        """Write a file. Raises `TakenError` if it exists, unless with `overwrite`.

        `max_bytes` has no meaning: nothing is stored in the proxy.
        """
        path = new_path(name)
        with _translated_file_errors():
            http = self._http
            call = http.call("POST", "userdata/{file}", file=path, query=_writing(overwrite))
            return await http.read(
                call, _file_entry, data=data, max_attempts=None if overwrite else 1
            )

    async def delete(self, _: str, name: str) -> None:
        """Delete a file. Raises `MissingError`."""
        with _translated_file_errors():
            http = self._http
            call = http.call("DELETE", "userdata/{file}", file=_existing_path(name))
            await http.read(call, status_only, max_attempts=1)

    async def move(
        self,
        _: str,
        name: str,
        target: str,
        *,
        overwrite: bool = True,
        max_bytes: int | None = None,
    ) -> UserDataEntry:
        """Rename a file. Raises `MissingError`; `TakenError` if `target` exists, unless with
        `overwrite`."""
        file, dest, query = _existing_path(name), new_path(target), _writing(overwrite)
        with _translated_file_errors():
            http, route = self._http, "userdata/{file}/move/{dest}"
            call = http.call("POST", route, file=file, dest=dest, query=query)
            return await http.read(call, _file_entry, max_attempts=1)

    async def files(
        self, _: str, name: str, *, recurse: bool, reserve: Callable[[int], object] = int
    ) -> list[UserDataEntry]:
        """Return the files in a folder, with paths relative to it, without hidden ones. `reserve`
        has no meaning: answers of the cloud have limits."""
        found = await self._below(path_to(name))
        return sorted(
            (entry for entry in found if is_listed(entry.path, recurse=recurse)),
            key=lambda entry: entry.path,
        )

    async def tree(
        self, _: str, name: str, *, reserve: Callable[[int], object] = int
    ) -> list[UserDataEntry]:
        """Return all folders and files below a folder, with paths from the top. Raises
        `IsFileError`, `MissingError`."""
        folder = path_to(name)
        prefix = f"{folder}/" if folder else ""
        try:
            below = await self._below(folder)
        except MissingError:
            parent, _, last = folder.rpartition("/")
            if last in {file.path for file in await self._below(parent)}:
                raise IsFileError from None
            raise
        files = [replace(file, path=prefix + file.path) for file in below]
        return sorted([*files, *_folders(files, prefix)], key=in_tree_order)

    async def settings(self, _: str) -> dict[str, Any]:
        """Return all settings."""
        with _translated_errors():
            http = self._http
            return await http.read(http.call("GET", "settings"), Answer.object)

    async def settings_json(
        self, member: str, name: str | None = None, *, reserve: Callable[[int], object] = int
    ) -> bytes:
        """Return all settings, or the value of one, as JSON."""
        if name is None:
            return codec.dump_bytes(await self.settings(member))
        return codec.dump_bytes(await self.setting(member, name))

    async def setting(self, _: str, name: str) -> Any:
        """Return the value of a setting, or `None`."""
        with _translated_errors():
            return await self._http.lookup("settings/{id}", _value, id=name)

    async def change_settings(
        self, _: str, changes: Mapping[str, Any], *, max_bytes: int | None = None
    ) -> None:
        """Set some settings, and leave the others unchanged."""
        with _translated_errors():
            http, body = self._http, codec.dump_bytes(dict(changes))
            call = http.call("POST", "settings")
            await http.read(call, status_only, data=body, headers=JSON)

    async def add_user(self, _: str, name: str) -> bool:
        """Return whether the name is a new one: the account has one user."""
        return name != DEFAULT_USER

    async def _below(self, folder: str) -> list[UserDataEntry]:
        """Return all files below a folder, with paths relative to it; `""` is the top.

        Raises `MissingError` if there are none, unless for the top.
        """
        with _translated_file_errors():
            http, query = self._http, {"dir": f"{folder}/", "recurse": "true"}
            found = await http.read(http.call("GET", "userdata", query=query), _files)
        if folder and not found:
            raise MissingError(folder)
        return found


#: The members' files and settings, wherever they are stored.
UserData: TypeAlias = StoredUserData | UserDataOnCloud


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise `LocalError` for the cloud's errors."""
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
def _translated_file_errors() -> Iterator[None]:
    """Raise `MissingError`, `TakenError` and `BadNameError` for the cloud's refusals, and
    `LocalError` for its other errors."""
    with _translated_errors():
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


def _existing_path(name: str) -> str:
    """Return the path of an existing file. Raises `MissingError` and `LeadsOutError`."""
    path = path_to(name)
    if not path:
        raise MissingError(name)
    return path


def _folders(files: Iterable[UserDataEntry], prefix: str) -> list[UserDataEntry]:
    """Return the folders that contain files, each with the time of the newest file below it."""
    newest: dict[str, float] = {}
    for file in files:
        steps = file.path.removeprefix(prefix).split("/")[:-1]
        for count in range(1, len(steps) + 1):
            path = prefix + "/".join(steps[:count])
            newest[path] = max(newest.get(path, 0.0), file.modified)
    return [UserDataEntry(path, 0, time, time, is_folder=True) for path, time in newest.items()]


def _entry(file: UserFile) -> UserDataEntry:
    """Return the entry of a file, created when it was modified: the cloud reports no other time."""
    return UserDataEntry(file.path, file.size, file.modified, file.modified)


def _body(answer: Answer) -> bytes:
    return answer.body


def _file_entry(answer: Answer) -> UserDataEntry:
    file = user_file(answer.object())
    if file is None:
        raise CloudGarbage(f"{answer.call}: no path in the answer")
    return _entry(file)


def _files(answer: Answer) -> list[UserDataEntry]:
    return [_entry(file) for file in map(user_file, answer.objects()) if file is not None]


def _value(answer: Answer) -> Any:
    setting = answer.object()
    if "value" not in setting:
        raise CloudGarbage(f"{answer.call}: no value in the answer")
    return setting["value"]


def _writing(overwrite: bool) -> dict[str, str]:
    """Return the query of a call that writes a file."""
    return {"overwrite": str(overwrite).lower(), "full_info": "true"}
