"""Replay a recording against the proxy: the same requests and websockets in the same order.

What the recorded clients had heard or been told before they went on, ours hear or could be told
before they go on. Time passes only where something recorded does not come.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from fidelity import compare, streams
from fidelity.compare import Answer, Names
from fidelity.recording import RECORDED_PORT, Event, Recording
from fidelity.streams import Heard
from stack import Proxy
from yarl import URL

from proxy.api.keys import JOBS
from proxy.members.member import LOCAL

#: Until something that was recorded is taken not to come any more: seconds in all, and waits of
#: seconds without news while no job is live (while one is, the proxy is never silent for so long).
#: Many short waits give the proxy its turns on a busy machine, where one long wait is over before
#: anything could be said.
TIMEOUT = 30.0
SILENCE = 40
WAIT = 0.01
#: Headers that the client must not add to the recorded ones.
AUTOMATIC = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
#: What is done to a websocket that is open.
TO_A_SOCKET = ("ws_send", "ws_close", "ws_end")


@dataclass
class Ear:
    """One of our websockets and what it has heard."""

    socket: aiohttp.ClientWebSocketResponse
    messages: list[Heard] = field(default_factory=list)
    reader: asyncio.Task[None] | None = None
    ended: bool = False


@dataclass(frozen=True)
class Finding:
    """What differs at one request or on one websocket."""

    name: str
    kind: str
    differences: tuple[str, ...]


class Replay:
    """One recording, replayed. `findings` has an entry for each answer and each websocket."""

    def __init__(
        self,
        recording: Recording,
        proxy: Proxy,
        session: aiohttp.ClientSession,
    ) -> None:
        self._recording = recording
        self._jobs = proxy.services[JOBS]
        self._url = proxy.url
        self._session = session
        self._names = Names(exact=recording.exact)
        self._ears: dict[str, Ear] = {}
        self._news = asyncio.Event()
        self._never: Counter[tuple[str, ...]] = Counter()
        self._turned_away: set[str] = set()
        self.findings: list[Finding] = []

    async def run(self) -> list[Finding]:
        """Do what was recorded; the differences."""
        steps = {
            "http": self._http,
            "raw": self._raw,
            "ws_open": self._open,
            "ws_refused": self._refused,
            "ws_send": self._send,
            "ws_close": self._close,
            "ws_end": self._cut,
        }
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._hang_up)
            await self._listen("an observer", await self._session.ws_connect(self._url / "ws"))
            for event in self._recording.events:
                shut = event.kind in TO_A_SOCKET and event.fields["ws"] not in self._ears
                if event.kind in steps and not shut:
                    await steps[event.kind](event)
        return self.findings

    # --- requests

    async def _http(self, event: Event) -> None:
        await self._all_heard(event.position)
        await self._wait_told(event)
        answer = await self._ask(event)
        self._note_refusal(event, answer)
        if event.answered:
            self._found(event.name, "answer", compare.response(event, answer, self._names))

    def _note_refusal(self, event: Event, answer: Answer) -> None:
        """Nothing is to be expected of a job that only the recorded server took."""
        taken = event.answered and event.response["status"] == 200
        request = event.fields["request"]
        submission = request["method"] == "POST" and "/prompt" in request["path"]
        if taken and submission and answer.status != 200:
            self._turned_away.add(event.response_body.parsed["prompt_id"])

    async def _ask(self, event: Event) -> Answer:
        request = event.fields["request"]
        data = event.request_body.data
        if data is None:
            raise ValueError(f"{event.name}: the request was not recorded whole")
        if event.request_body.kind in ("json", "text"):
            data = self._ours(data.decode()).encode()
        pairs = [(name, self._ours(value)) for name, value in request["headers"]]
        async with self._session.request(
            request["method"],
            self._address(request["path"]),
            data=data or None,
            headers=pairs,
            skip_auto_headers=AUTOMATIC,
            allow_redirects=False,
        ) as answer:
            return await _answer(answer)

    async def _raw(self, event: Event) -> None:
        reader, writer = await asyncio.open_connection(self._url.host, self._url.port)
        try:
            writer.write(self._ours(event.fields["sent"]).encode("latin-1"))
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 100 " in head.partition(b"\r\n")[0] and event.fields["received"]:
                    head = await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        recorded = _head(event.fields["received"])
        actual = _head(head.decode("latin-1"))
        found = [] if recorded[0] == actual[0] else [f"status: {recorded[0]} → {actual[0]}"]
        ours = [(name, value) for name, value in actual[1]]
        found += compare.headers([list(pair) for pair in recorded[1]], ours, self._names)
        self._found(event.name, "answer", found)

    async def _told(self, event: Event) -> bool:
        """Whether the answer could be the recorded one now, as far as runs have come."""
        if not event.answered or event.response["status"] != 200:
            return True
        path = event.fields["request"]["path"].removeprefix("/api").partition("?")[0]
        body = event.response_body
        if event.fields["request"]["method"] != "GET" or body.kind != "json":
            return True
        if path == "/queue" and not self._turned_away:
            queue = json.loads(await self._jobs.queue_json(LOCAL))
            return all(len(queue[part]) == len(body.parsed[part]) for part in queue)
        if path == "/prompt" and not self._turned_away:
            remaining = body.parsed["exec_info"]["queue_remaining"]
            return bool(self._jobs.queue_remaining(LOCAL) == remaining)
        if path.startswith("/history"):
            history = await self._jobs.history.json(LOCAL, max_items=None, offset=None)
            wanted = body.parsed.keys() - self._turned_away
            return {self._names.ours(key) for key in wanted} <= json.loads(history).keys()
        return True

    # --- websockets

    async def _open(self, event: Event) -> None:
        await self._all_heard(event.position)
        name = event.fields["ws"]
        first = self._recording.received(name)[:1]
        remaining = streams.received(first[0]).remaining if first else None
        if remaining is not None:
            await self._wait(lambda: self._jobs.queue_remaining(LOCAL) == remaining)
        recorded = event.fields["response_headers"]
        packed = any(header.lower() == "sec-websocket-extensions" for header, _ in recorded)
        try:
            socket = await self._connect(event, compress=15 if packed else 0)
        except aiohttp.WSServerHandshakeError as error:
            self._found(event.name, "answer", [f"status: 101 → {error.status}"])
            return
        actual = [(key, value) for key, value in socket._response.headers.items()]
        await self._listen(name, socket)
        found = compare.headers(recorded, actual, self._names)
        self._found(event.name, "answer", found)

    async def _refused(self, event: Event) -> None:
        try:
            socket = await self._connect(event, compress=0)
        except aiohttp.WSServerHandshakeError as error:
            found = []
            if error.status != event.fields["status"]:
                found.append(f"status: {event.fields['status']} → {error.status}")
            actual = [(key, value) for key, value in (error.headers or {}).items()]
            found += compare.headers(event.fields["response_headers"], actual, self._names)
        else:
            await socket.close()
            found = [f"status: {event.fields['status']} → 101"]
        self._found(event.name, "answer", found)

    async def _connect(self, event: Event, *, compress: int) -> aiohttp.ClientWebSocketResponse:
        headers = {key: self._ours(value) for key, value in event.fields["headers"].items()}
        return await self._session.ws_connect(
            self._address(event.fields["path"]),
            headers=headers,
            compress=compress,
            autoping=False,
            max_msg_size=0,
        )

    async def _send(self, event: Event) -> None:
        await self._all_heard(event.position)
        socket, fields = self._ears[event.fields["ws"]].socket, event.fields
        if fields["type"] == "text":
            text = json.dumps(fields["json"]) if "json" in fields else fields["raw"]
            await socket.send_str(self._ours(text))
        elif fields["type"] == "ping":
            await socket.ping(_unpacked(fields))
        else:
            await socket.send_bytes(_unpacked(fields))

    async def _close(self, event: Event) -> None:
        name = event.fields["ws"]
        await self._all_heard(event.position)
        ear = self._ears[name]
        await ear.socket.close(code=event.fields["code"])
        recorded = next(
            end.fields["close_code"]
            for end in self._recording.of("ws_end")
            if end.fields["ws"] == name
        )
        found = []
        if recorded != ear.socket.close_code:
            found.append(f"close code: {recorded} → {ear.socket.close_code}")
        self._compare(name, found)

    async def _cut(self, event: Event) -> None:
        """The end of a socket that nobody closed: either side of it just went."""
        name = event.fields["ws"]
        ear = self._ears[name]
        if ear.ended:
            return
        await self._all_heard(event.position)
        if self._recording.server_died:
            ear.ended = True
            self._found(f"ws {name}", "websocket", ["the server died → it goes on"])
        else:
            connection = ear.socket._response.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()
            self._compare(name, [])

    def _compare(self, name: str, found: list[str]) -> None:
        ear = self._ears[name]
        ear.ended = True
        recorded = [streams.received(message) for message in self._recording.received(name)]
        actual = list(ear.messages)
        found += streams.compare(recorded, actual, self._names)
        self._found(f"ws {name}", "websocket", found)

    # --- waiting

    async def _all_heard(self, position: int) -> None:
        """Wait until our sockets have heard what the recorded ones had at this point."""
        for name, ear in self._ears.items():
            recorded = [
                message
                for message in map(streams.received, self._recording.received(name, position))
                if self._due(message)
            ]
            if ear.ended or not recorded:
                continue

            def wanted(ear: Ear = ear, recorded: list[Heard] = recorded) -> Counter[Any]:
                self._learn(recorded, ear.messages)
                return streams.missing(recorded, ear.messages, self._names) - self._never

            if not await self._wait(lambda wanted=wanted: not wanted()):
                self._never += wanted()

    def _due(self, message: Heard) -> bool:
        if message.type == "status":
            return not self._turned_away or "sid" in message.data
        return not (
            isinstance(message.data, dict) and message.data.get("prompt_id") in self._turned_away
        )

    def _learn(self, recorded: list[Heard], actual: list[Heard]) -> None:
        named = {message.key(): message for message in actual if message.type == "executed"}
        for message in recorded:
            if message.type == "executed":
                ours = named.get(message.key(self._names))
                if ours is not None and isinstance(message.data, dict):
                    self._names.learn(message.data, ours.data)
        if recorded and actual and recorded[0].type == actual[0].type == "status":
            self._names.learn(recorded[0].data, actual[0].data)

    async def _wait_told(self, event: Event) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                while not await self._told(event):
                    if not await self._heard_something() and not self._jobs.queue_remaining(LOCAL):
                        return

    async def _wait(self, condition: Callable[[], bool]) -> bool:
        """Look whether a condition holds each time that any of our sockets hears something."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT):
                while not condition():
                    if not await self._heard_something() and not self._jobs.queue_remaining(LOCAL):
                        return condition()
                return True
        return False

    async def _heard_something(self) -> bool:
        """Wait for news, or for a while."""
        self._news.clear()
        for _ in range(SILENCE):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), WAIT)
                return True
        return False

    async def _listen(self, name: str, socket: aiohttp.ClientWebSocketResponse) -> None:
        ear = self._ears[name] = Ear(socket)
        ear.reader = asyncio.create_task(self._read(ear))

    async def _read(self, ear: Ear) -> None:
        while True:
            message = await ear.socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                ear.messages.append(streams.received(json.loads(message.data)))
            elif message.type is aiohttp.WSMsgType.BINARY:
                ear.messages.append(streams.received(message.data))
            elif message.type in (aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG):
                ear.messages.append(Heard(message.type.name.lower(), bytes(message.data).hex()))
            else:
                return
            self._news.set()

    async def _hang_up(self) -> None:
        for ear in self._ears.values():
            await ear.socket.close()
            if ear.reader is not None:
                ear.reader.cancel()
                with suppress(asyncio.CancelledError):
                    await ear.reader

    # --- words

    def _found(self, name: str, kind: str, differences: list[str]) -> None:
        self.findings.append(Finding(name, kind, tuple(differences)))

    def _ours(self, text: str) -> str:
        text = text.replace("<HOST>", f"{self._url.host}:{self._url.port}")
        return self._names.ours(text.replace(RECORDED_PORT, f":{self._url.port}"))

    def _address(self, path: str) -> URL:
        return URL(f"{self._url}".rstrip("/") + self._ours(path), encoded=True)


async def _answer(answer: aiohttp.ClientResponse) -> Answer:
    pairs = [(key.decode(), value.decode("utf-8")) for key, value in answer.raw_headers]
    return Answer(answer.status, str(answer.reason), pairs, await answer.read())


def _unpacked(fields: dict[str, Any]) -> bytes:
    return base64.b64decode(fields["b64"])


def _head(text: str) -> tuple[str, list[tuple[str, str]]]:
    first, *lines = text.partition("\r\n\r\n")[0].split("\r\n")
    pairs = [line.partition(": ") for line in lines]
    return first, [(name, value) for name, _, value in pairs]
