"""The calls for the account's own settings and files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

from proxy.cloud.errors import CloudGarbage, CloudRefused
from proxy.cloud.http import Answer, Body, Http
from proxy.translate import codec
from proxy.translate.user_files import UserFile, user_file

_JSON = {"Content-Type": "application/json"}
_OCTETS = {"Content-Type": "application/octet-stream"}


class UserDataCalls:
    """Every call may raise `CloudUnreachable`, `CloudRefused` or `CloudGarbage`.

    What cannot be repeated without another meaning (to delete, to move, to write only what is not
    there) is tried once.
    """

    def __init__(self, http: Http) -> None:
        self._http = http

    async def settings(self) -> dict[str, Any]:
        """`GET /api/settings`."""
        return await self._http.read("GET", self._http.url("settings"), Answer.object)

    async def setting(self, name: str) -> Any:
        """`GET /api/settings/{id}`: the value alone, `None` if it is not set."""
        try:
            return await self._http.read("GET", self._http.url("settings", name), _value)
        except CloudRefused as error:
            if error.status == 404:
                return None
            raise

    async def change_settings(self, changes: Mapping[str, Any]) -> None:
        """`POST /api/settings`: sets some and keeps the others."""
        body = codec.dump_bytes(dict(changes))
        await self._http.read(
            "POST", self._http.url("settings"), _ignored, body=_bytes(body), headers=_JSON
        )

    async def files(self, folder: str) -> list[UserFile]:
        """`GET /api/userdata`: all files below a folder (`""`: all), by their paths from it."""
        url = self._http.url("userdata", dir=f"{folder}/", recurse="true")
        return await self._http.read("GET", url, _files)

    async def read(self, path: str) -> bytes:
        """`GET /api/userdata/{file}`."""
        return await self._http.read("GET", self._http.url("userdata", path), _content)

    async def write(self, path: str, data: bytes, *, overwrite: bool) -> UserFile:
        """`POST /api/userdata/{file}`; refused with 409 unless it may `overwrite`."""
        url = self._http.url("userdata", path, overwrite=_word(overwrite), full_info="true")
        if overwrite:
            return await self._http.read("POST", url, _file, body=_bytes(data), headers=_OCTETS)
        return _file(await self._http.once("POST", url, data=BytesIO(data), headers=_OCTETS))

    async def delete(self, path: str) -> None:
        """`DELETE /api/userdata/{file}`."""
        await self._http.once("DELETE", self._http.url("userdata", path))

    async def move(self, path: str, target: str, *, overwrite: bool) -> UserFile:
        """`POST /api/userdata/{file}/move/{dest}`; refused with 409 unless it may `overwrite`."""
        query = {"overwrite": _word(overwrite), "full_info": "true"}
        url = self._http.url("userdata", path, "move", target, **query)
        return _file(await self._http.once("POST", url))


def _word(value: bool) -> str:
    return "true" if value else "false"


def _bytes(data: bytes) -> Body:
    @asynccontextmanager
    async def opened() -> AsyncIterator[BytesIO]:
        yield BytesIO(data)

    return opened


def _value(answer: Answer) -> Any:
    said = answer.object()
    if "value" not in said:
        raise CloudGarbage(f"{answer.call}: no value in the answer")
    return said["value"]


def _content(answer: Answer) -> bytes:
    return answer.body


def _ignored(answer: Answer) -> None:
    """A 2xx says it all."""


def _files(answer: Answer) -> list[UserFile]:
    items = answer.json()
    if not isinstance(items, list):
        raise CloudGarbage(f"{answer.call}: the answer is not a list")
    found = [user_file(item) for item in items if isinstance(item, dict)]
    return [file for file in found if file is not None]


def _file(answer: Answer) -> UserFile:
    file = user_file(answer.object())
    if file is None:
        raise CloudGarbage(f"{answer.call}: no path in the answer")
    return file
