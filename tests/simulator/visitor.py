"""A program with a key that talks to the simulator over real connections."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from proxy.simulator import Simulator


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The `code` of a flat error, or the `type` of a nested one."""
        body = self.json
        return body["code"] if "code" in body else body["error"]["type"]


class Ears:
    """An event socket and what has been heard on it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.received: list[Any] = []

    async def next(self) -> Any:
        """The next message: an object, or bytes; `None` at the end of the connection."""
        message = await self.socket.receive(timeout=30)
        if message.type is aiohttp.WSMsgType.TEXT:
            received = json.loads(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            received = message.data
        else:
            return None
        self.received.append(received)
        return received

    async def until(self, type_: str, **data: Any) -> dict[str, Any]:
        """The first message of that type with those data."""
        while (message := await self.next()) is not None:
            if isinstance(message, dict) and message["type"] == type_:
                found = message["data"]
                if all(name in found and found[name] == data[name] for name in data):
                    return found
        raise AssertionError(f"the socket ended without {type_} {data}")

    async def end(self) -> list[str]:
        """The names of all messages up to the end of a job."""
        start = len(self.received)
        await self.until("executing", node=None)
        return self.names(start)

    def names(self, start: int = 0) -> list[str]:
        """Types of text messages, `binary N` for the others."""
        return [
            f"binary {int.from_bytes(message[:4], 'big')}"
            if isinstance(message, bytes)
            else message["type"]
            for message in self.received[start:]
        ]

    def all(self, type_: str) -> list[dict[str, Any]]:
        """The data of all messages of a type."""
        return [m["data"] for m in self.received if isinstance(m, dict) and m["type"] == type_]

    def frames(self) -> list[bytes]:
        """The binary messages."""
        return [m for m in self.received if isinstance(m, bytes)]


class Visitor:
    def __init__(self, sim: Simulator, session: aiohttp.ClientSession, key: str) -> None:
        self.sim = sim
        self.key = key
        self.session = session
        self.ears: list[Ears] = []

    async def ask(
        self, method: str, path: str, *, query: Any = None, keyed: bool = True, **more: Any
    ) -> Answer:
        headers = {"X-API-Key": self.key} if keyed else {}
        headers.update(more.pop("headers", {}))
        url = self.sim.base_url.join(URL(path, encoded=True)).update_query(query or {})
        async with self.session.request(
            method, url, headers=headers, allow_redirects=False, **more
        ) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def get(self, path: str, **query: Any) -> Answer:
        return await self.ask("GET", path, query=query)

    async def post(self, path: str, body: Any = None) -> Answer:
        return await self.ask("POST", path, json=body)

    async def fetch(self, url: str, **headers: str) -> Answer:
        """From the storage, with nothing but these headers."""
        async with self.session.get(URL(url, encoded=True), headers=headers) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def submit(self, graph: Any, **more: Any) -> str:
        answer = await self.post("/api/prompt", {"prompt": graph, **more})
        assert answer.status == 200, answer.body
        return answer.json["prompt_id"]

    async def run(self, graph: Any, status: str = "completed", **more: Any) -> dict[str, Any]:
        """Submit, wait for the end, and give the detail."""
        job_id = await self.submit(graph, **more)
        await self.sim.wait_for(job_id, status)
        return (await self.get(f"/api/jobs/{job_id}")).json

    async def upload(self, data: bytes, filename: str = "cat.png", **fields: str) -> Answer:
        form = aiohttp.FormData(fields)
        form.add_field("image", io.BytesIO(data), filename=filename)
        return await self.ask("POST", "/api/upload/image", data=form)

    async def listen(self, **query: str) -> Ears:
        """An event socket that has had its first messages not yet read."""
        url = self.sim.base_url / "ws" % {"clientId": "someone", "token": self.key, **query}
        self.ears.append(Ears(await self.session.ws_connect(url, max_msg_size=0)))
        return self.ears[-1]
