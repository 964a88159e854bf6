"""Members who share a server and must not notice each other, driven from synchronous tests."""

from __future__ import annotations

import asyncio
import io
import json
import re
import secrets
import threading
import uuid
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from PIL import Image
from stack import TIMEOUT, running_proxy
from yarl import URL

from proxy.api.keys import ASSETS, FILES, MEMBERS, Services
from proxy.members.member import Member
from proxy.simulator import Simulator, Switches
from proxy.translate.assets import AssetFilter, AssetQuery

T = TypeVar("T")

#: What members call their websocket, all of them.
CLIENT_ID = "shared"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def parsed(self) -> Any:
        return json.loads(self.body)

    def whole(self) -> bytes:
        return b"\n".join([*(f"{k}: {v}".encode() for k, v in self.headers), self.body])

    def without(self, value: str) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        """What may be compared of two answers that differ by the value they were asked about."""
        value = value.removeprefix("blake3:")  # some answers have the digits of a hash alone
        headers = [(k, v.replace(value, "?")) for k, v in self.headers if k.lower() != "date"]
        return self.status, tuple(headers), self.body.replace(value.encode(), b"?")


@dataclass
class Job:
    """A job of a member. `left_alone` is false when its member may have stopped it."""

    fails: bool = False
    left_alone: bool = True


@dataclass(frozen=True)
class Belongings:
    """What names the things of a member: ids of jobs, contents and assets, and archives."""

    jobs: frozenset[str]
    hashes: frozenset[str]
    assets: frozenset[str]


@dataclass(eq=False)
class Stranger:
    """A member with everything that is its own. All its names and texts hold its `marker`.

    `left` is what it leaves behind when it has moved out.
    """

    name: str
    token: str
    marker: str
    jobs: dict[str, Job] = field(default_factory=dict)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    userdata: dict[str, bytes] = field(default_factory=dict)
    assets: dict[str, bytes] = field(default_factory=dict)
    exports: dict[str, str] = field(default_factory=dict)
    history_touched: bool = False
    received: list[bytes] = field(default_factory=list)
    socket: aiohttp.ClientWebSocketResponse | None = None
    listening: asyncio.Task[None] | None = None
    left: Belongings | None = None


class House:
    """A proxy before a simulator, on a loop of its own, and everybody who ever lived there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()
        self.people: list[Stranger] = []
        self.services: Services
        self._url: URL
        self._session: aiohttp.ClientSession

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    def __enter__(self) -> House:
        self._thread.start()
        self.do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.do(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(TIMEOUT)
            self._loop.close()

    async def _open(self) -> None:
        simulator = Simulator(plan="pro", switches=Switches(pace=0.01))
        await self._stack.enter_async_context(simulator)
        proxy = await self._stack.enter_async_context(running_proxy(simulator, self._folder))
        self.services, self._url = proxy.services, proxy.url
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )

    # --- people ----------------------------------------------------------------------------

    def move_in(self) -> Stranger:
        """A new member with an open websocket."""
        return self.do(self._move_in())

    async def _move_in(self) -> Stranger:
        marker = f"zq{secrets.token_hex(5)}"
        name = f"m{len(self.people)}-{marker}"
        await self.services[MEMBERS].add(Member(name))
        token, _ = await self.services[MEMBERS].new_token(name)
        person = Stranger(name, token, marker)
        url = (self._url / "ws").with_query(clientId=CLIENT_ID)
        socket = await self._session.ws_connect(url, headers=_credentials(person))
        await socket.send_json(
            {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
        )
        person.socket = socket
        person.listening = asyncio.create_task(_listen(person, socket))
        self.people.append(person)
        return person

    def move_out(self, person: Stranger) -> None:
        """Close the websocket; the rest stays, for others to find."""

        if person.socket is not None:
            self.do(person.socket.close())
        person.left = self.do(self._belongings(person))

    # --- asking ----------------------------------------------------------------------------

    def ask(
        self,
        person: Stranger,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: Any = None,
        told: str = "",
        **query: str,
    ) -> Answer:
        """A request, whose answer must not know of others; `told` is what the request says."""

        async def ask() -> Answer:
            answer = await self._ask(person, method, path, json=json, data=data, query=query)
            await self._check(person, answer.whole(), told=told)
            return answer

        return self.do(ask())

    async def _ask(
        self, person: Stranger, method: str, path: str, *, json: Any, data: Any, query: Any
    ) -> Answer:
        url = URL(f"{self._url.origin()}/{path}", encoded=True)
        url = url.update_query(query) if query else url
        form = _form(data) if isinstance(data, dict) else data
        async with self._session.request(
            method, url, json=json, data=form, headers=_credentials(person), allow_redirects=False
        ) as answer:
            return Answer(answer.status, tuple(answer.headers.items()), await answer.read())

    def guess(self, person: Stranger, method: str, path: str, value: str, **fields: Any) -> None:
        """Ask about something that is another's: it has to be as unknown as what there is not.

        `{value}` stands for it in the path, the query and the JSON.
        """
        answers = []
        for text in (value, _unknown(value)):
            filled = json.loads(json.dumps(fields).replace("{value}", text))
            answer = self.ask(person, method, path.replace("{value}", text), told=text, **filled)
            answers.append(answer.without(text))
        assert answers[0] == answers[1], f"{method} {path}: {answers[0]} is not {answers[1]}"

    def watch(self, person: Stranger, path: str) -> None:
        """Look at the beginning of a stream of events."""

        async def look() -> None:
            url = self._url.origin().join(URL(path))
            async with self._session.get(url, headers=_credentials(person)) as answer:
                assert answer.status == 200
                await self._check(person, await answer.content.readany())

        self.do(look())

    def listen(self, person: Stranger) -> None:
        """Look through what came over the websocket."""

        async def look() -> None:
            received, person.received = person.received, []
            for message in received:
                await self._check(person, message)

        self.do(look())

    def hashes(self, person: Stranger) -> set[str]:
        """What the cloud calls the files of a person."""

        async def ask() -> set[str]:
            return await self._hashes(person)

        return self.do(ask())

    async def _check(self, person: Stranger, seen: bytes, *, told: str = "") -> None:
        """What a member sees has nothing in it of another, but for what the member said itself."""
        text = seen.replace(told.encode(), b"") if told else seen
        own = await self._belongings(person)
        for other in self.people:
            if other is not person:
                theirs = other.left or await self._belongings(other)
                names = (theirs.jobs - own.jobs) | (theirs.hashes - own.hashes) | theirs.assets
                for secret in (other.marker, other.token, *names):
                    assert secret.encode() not in text, f"{secret} of {other.name}: {text!r}"

    async def _belongings(self, person: Stranger) -> Belongings:
        return Belongings(
            frozenset(person.jobs),
            frozenset(await self._hashes(person)),
            frozenset(await self._assets(person)),
        )

    async def _assets(self, person: Stranger) -> set[str]:
        """The ids of what a person has, but for models, which are everybody's."""
        query = AssetQuery(AssetFilter(any=("input", "output", "temp")), limit=500)
        assert self.services[ASSETS] is not None
        page = await self.services[ASSETS].page(person.name, query)
        return {asset["id"] for asset in page["assets"]} | set(person.exports)

    def asset_ids(self, person: Stranger) -> set[str]:
        """The ids of what a person has."""

        async def ask() -> set[str]:
            return await self._assets(person)

        return self.do(ask())

    async def _hashes(self, person: Stranger) -> set[str]:
        return {
            record.cloud_name
            for type_ in ("input", "output", "temp")
            for record in await self.services[FILES].namespace.records(person.name, type_)
        }


async def _listen(person: Stranger, socket: aiohttp.ClientWebSocketResponse) -> None:
    async for message in socket:
        data = message.data
        person.received.append(data if isinstance(data, bytes) else str(data).encode())


def _credentials(person: Stranger) -> dict[str, str]:
    return {"Authorization": f"Bearer {person.token}"}


def _form(fields: dict[str, Any]) -> aiohttp.FormData:
    form = aiohttp.FormData()
    for name, value in fields.items():
        if isinstance(value, tuple):
            form.add_field(name, value[1], filename=value[0], content_type="image/png")
        else:
            form.add_field(name, value)
    return form


def _unknown(value: str) -> str:
    """A value of the same form that nobody has."""
    if re.fullmatch(r"[0-9a-f-]{36}", value):
        return str(uuid.uuid4())
    value = re.sub("[0-9a-f]{64}", lambda _: secrets.token_hex(32), value)
    return re.sub("zq[0-9a-f]{10}", lambda _: f"zq{secrets.token_hex(5)}", value)


def picture(color: tuple[int, int, int]) -> bytes:
    """A small PNG of one colour."""
    written = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(written, "PNG")
    return written.getvalue()
