"""A client of the local API: of a proxy, or of any ComfyUI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from proxy.cli.failure import CommandError
from proxy.cli.workflow import Graph
from proxy.translate import codec

#: A server that takes longer to say something is taken for gone, in seconds.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)

_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


class RefusedError(Exception):
    """The server did not take the workflow. `body` is ComfyUI's `{"error", "node_errors"}`."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__("the server refused the workflow")
        self.body = body


class Comfy:
    """The calls that running one workflow takes.

    Every call may raise `aiohttp.ClientError` or `TimeoutError`.
    """

    def __init__(self, session: aiohttp.ClientSession, base_url: URL) -> None:
        self._session = session
        self.base_url = base_url

    @classmethod
    @asynccontextmanager
    async def at(cls, server: str) -> AsyncIterator[Comfy]:
        """A client of the server, whose address may lack `http://`.

        Raises `CommandError` when it is no address.
        """
        try:
            url = URL(server if "://" in server else f"http://{server}")
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise CommandError(
                f"--server {server} is no address: write one such as http://127.0.0.1:8188.",
                exit_code=2,
            )
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            yield cls(session, url.with_query(None).with_fragment(None))

    async def submit(self, graph: Graph, *, client_id: str, prompt_id: str) -> dict[str, Any]:
        """Submit the graph; the answer has `prompt_id` and perhaps `node_errors`.

        Old servers choose a `prompt_id` of their own. Raises `RefusedError`.
        """
        body = codec.dump_bytes({"prompt": graph, "client_id": client_id, "prompt_id": prompt_id})
        async with self._session.post(
            self.base_url / "prompt", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            answer = _object(await response.read())
            if response.status != 200 or "prompt_id" not in answer:
                raise RefusedError(
                    answer or {"error": f"the server answered with status {response.status}"}
                )
            return answer

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The history entry of a finished job."""
        entry = (await self._get("history", prompt_id)).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def queued(self) -> tuple[set[str], set[str]]:
        """The ids of the running and of the pending jobs."""
        answer = await self._get("queue")
        running, pending = (
            {str(item[1]) for item in answer.get(key, ())}
            for key in ("queue_running", "queue_pending")
        )
        return running, pending

    async def delete(self, prompt_id: str) -> None:
        """Take a pending job out of the queue."""
        await self._post("queue", {"delete": [prompt_id]})

    async def interrupt(self, prompt_id: str) -> None:
        """Stop a running job."""
        await self._post("interrupt", {"prompt_id": prompt_id})

    @asynccontextmanager
    async def socket(self, client_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The websocket of a client, its wish for previews with metadata already said."""
        url = (self.base_url / "ws").with_query(clientId=client_id)
        async with self._session.ws_connect(url, heartbeat=30, max_msg_size=0) as socket:
            await socket.send_json(_FLAGS)
            yield socket

    @asynccontextmanager
    async def view(self, file: dict[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
        """The bytes of a file that an output names."""
        async with self._session.get(
            self.base_url / "view", params=file, raise_for_status=True
        ) as response:
            yield response.content

    async def _get(self, *path: str) -> dict[str, Any]:
        url = self.base_url.joinpath(*path)
        async with self._session.get(url, raise_for_status=True) as response:
            return _object(await response.read())

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        async with self._session.post(self.base_url / path, json=body, raise_for_status=True):
            pass


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = codec.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
