"""The recorded calls of a program, made again."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import aiohttp
from fidelity.recording import FOLDER
from yarl import URL

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Call = dict[str, Any]


def calls_of(program: str) -> list[Call]:
    """The calls of a program in order."""
    return list(json.loads((FOLDER / "clients" / f"{program}.json").read_text())["calls"])


class Recorded:
    """Makes calls as they were recorded, with the ids of jobs that this server gives."""

    def __init__(self, session: aiohttp.ClientSession, url: URL) -> None:
        self._session = session
        self._url = url
        self.prompt_id = ""
        self.submitted = 0

    async def call(self, call: Call, path: str = "") -> bytes:
        """Make a call, which is answered with the recorded status; the body."""
        body, data = call["body"], None
        if "b64" in body:
            data = base64.b64decode(body["b64"])
        if "json" in body:
            data = self._named(json.dumps(body["json"])).encode()
        address = f"{self._url}".rstrip("/") + (path or self._named(call["path"]))
        async with self._session.request(
            call["method"], URL(address, encoded=True), data=data, headers=call["headers"]
        ) as answer:
            assert answer.status == call["status"], (call["path"], await answer.text())
            found = await answer.read()
        if call["path"] == "/prompt" and call["status"] == 200:
            self.submitted += 1
            if "prompt_id" not in body["json"]:
                self.prompt_id = json.loads(found)["prompt_id"]
        return found

    def _named(self, text: str) -> str:
        """The text with our id of the last job, where it has the recorded one."""
        return _UUID.sub(self.prompt_id, text) if self.prompt_id else text
