"""Calls, sockets and jobs: answers as they come, before anything interprets them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

import aiohttp
from yarl import URL

from comfy_cloud_probe.points import Findings
from proxy.runtime.waits import stop, until_set
from proxy.translate import codec
from proxy.translate.reading import field_of, object_of, objects_of

Graph: TypeAlias = dict[str, dict[str, Any]]

#: Seconds for one call. The catalog of about 9 MB is the largest answer.
CALL_TIMEOUT = 30.0

#: Seconds before a throttled read is repeated; after a longer pause it is not.
_PAUSE, _LONGEST_PAUSE = 1.0, 5

#: Bytes of an answer or a message that are read at most: several times the catalog.
_MAX_BYTES = 64 * 1024 * 1024

#: Bytes of binary messages that a socket keeps, and how many messages in all: it carries those of
#: every program of the account. The probe's own jobs send a few small ones.
_MAX_BINARY = 16 * 1024 * 1024
_MAX_FRAMES = 20_000

#: Seconds until a small job must have ended, its wait for a machine included.
JOB = 45.0

#: Seconds between two queries of a job.
LOOK = 0.2

_ENDS = ("execution_success", "execution_error", "execution_interrupted")

_FLAGS = {"supports_preview_metadata": True, "supports_progress_text_metadata": True}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. `seconds` is the time until it arrived, `at` the moment of its arrival
    (`monotonic`)."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float
    at: float

    def json(self) -> Any:
        """Return the body as JSON, `None` if it is none."""
        try:
            return codec.loads(self.body)
        except ValueError:
            return None

    def dict(self) -> dict[str, Any]:
        """Return the body as a JSON object, empty if it is none."""
        return object_of(self.json())

    def code(self) -> str:
        """Return the error code of a refusal, whichever form it has; empty if there is none."""
        body = self.dict()
        error = body.get("error")
        code = error.get("type") if isinstance(error, dict) else body.get("code")
        return code if isinstance(code, str) and len(code) <= 60 else ""

    def form(self) -> str:
        """Return the form of an error: `code and message`, `error`, or nothing."""
        body = self.dict()
        if "error" in body:
            return "error and node_errors" if "node_errors" in body else "error"
        return "code and message" if {"code", "message"} <= body.keys() else ""

    def named(self) -> list[Any]:
        """Return the objects of a JSON list that have a name."""
        return [item for item in objects_of(self.json()) if "name" in item]

    @property
    def job(self) -> str | None:
        """The job that an answer to a submission names."""
        job = self.dict().get("prompt_id")
        return job if isinstance(job, str) and self.status == 200 else None

    def outcome(self) -> str:
        """Return status and error code, such as `403 FORBIDDEN`."""
        return f"{self.status} {self.code()}".strip() if self.status >= 400 else str(self.status)


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of the event socket; `data` is the payload of a binary one or of the JSON."""

    at: float
    type: str
    data: Any

    @property
    def job(self) -> str | None:
        """The job that a text message names."""
        job = field_of(self.data, "prompt_id")
        return job if isinstance(job, str) else None


@dataclass(slots=True)
class ProbeSocket:
    """An open event socket; `frames` are the messages so far, within the bounds above."""

    connection: aiohttp.ClientWebSocketResponse
    frames: list[Frame] = field(default_factory=list)
    _news: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _reader: asyncio.Task[None] = field(init=False)
    _binary: int = field(init=False, default=0)
    _is_closed: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._reader = asyncio.create_task(self._read(), name="probe socket")

    async def announce(self) -> None:
        """Send the flags that the official web interface sends."""
        await self.connection.send_str(codec.dumps({"type": "feature_flags", "data": _FLAGS}))

    async def until(self, reached: Callable[[list[Frame]], bool], seconds: float) -> bool:
        """Wait until `reached` says so of the frames, for some seconds and while it is open."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (done := reached(self.frames)) and not self._is_closed:
                    self._news.clear()
                    await self._news.wait()
                return done
        return False

    async def closes(self, seconds: float) -> bool:
        """Return whether the other side closes within some seconds."""
        return await self.until(lambda _: self._is_closed, seconds)

    async def quiet(self, seconds: float, limit: float) -> None:
        """Wait until nothing has come for so long, at most `limit` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while await until_set(self._news, seconds):
                    self._news.clear()

    async def close(self) -> None:
        """Close the connection."""
        await stop(self._reader)
        await self.connection.close()

    async def _read(self) -> None:
        try:
            async for message in self.connection:
                if len(self.frames) < _MAX_FRAMES:
                    self._receive(message, time.monotonic())
                    self._news.set()
        finally:
            self._is_closed = True
            self._news.set()

    def _receive(self, message: aiohttp.WSMessage, now: float) -> None:
        if message.type is aiohttp.WSMsgType.BINARY:
            self._binary += len(message.data)
            if self._binary <= _MAX_BINARY:
                self.frames.append(Frame(now, "binary", message.data))
        elif message.type is aiohttp.WSMsgType.TEXT:
            with suppress(ValueError):
                value = codec.loads(message.data)
                if isinstance(value, dict):
                    self.frames.append(Frame(now, str(value.get("type")), value.get("data")))


@dataclass(slots=True)
class Wire:
    """The calls of one account. They raise `aiohttp.ClientError`, `TimeoutError`."""

    session: aiohttp.ClientSession
    base_url: URL
    key: str = field(repr=False)
    #: Names of headers about rate limits, as they were seen on any answer.
    limits: set[str] = field(default_factory=set)
    #: Names of headers that announce the end of a route, as they were seen on any answer of v1.
    endings: set[str] = field(default_factory=set)
    #: The first read that was refused because there were too many.
    throttled: Reply | None = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        data: Any = None,
        query: Mapping[str, str] | None = None,
        bearer: bool = False,
        idempotency_key: str | None = None,
        repeats: bool = True,
        timeout: float = CALL_TIMEOUT,
    ) -> Reply:
        """Send a request below the cloud's address, with the key; redirects are not followed.

        A read that is throttled is repeated a few times, after the pause that was asked for, unless
        that is a long one.
        """
        headers = {"Authorization": f"Bearer {self.key}"} if bearer else {"X-API-Key": self.key}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        if json is not None:
            data, headers["Content-Type"] = codec.dump_bytes(json), "application/json"
        url = self.base_url.joinpath(*path.strip("/").split("/"))
        for last in (False, False, True):
            reply = await self._send(
                method,
                url.with_query(query or {}),
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
            )
            if reply.status != 429 or method != "GET":
                break
            self.throttled = self.throttled or reply
            after = reply.headers.get("Retry-After", "")
            pause = int(after) if after.isdigit() else _PAUSE
            if last or not repeats or pause > _LONGEST_PAUSE:
                break
            await asyncio.sleep(pause)
        return reply

    async def fetch(self, url: URL, headers: Mapping[str, str]) -> Reply:
        """Send a `GET` to a signed URL, without anything of the account."""
        return await self._send("GET", url, headers=headers)

    async def socket(self, *, header: bool = False, heartbeat: float | None = 20.0) -> ProbeSocket:
        """Open an event socket, with a ping every `heartbeat` seconds.

        Raises `aiohttp.WSServerHandshakeError`.
        """
        query = {"clientId": str(uuid4())} | ({} if header else {"token": self.key})
        headers = {"X-API-Key": self.key} if header else {}
        url = self.base_url.joinpath("ws").with_query(query)
        async with asyncio.timeout(CALL_TIMEOUT):
            connection = await self.session.ws_connect(
                url, headers=headers, heartbeat=heartbeat, max_msg_size=_MAX_BYTES
            )
        return ProbeSocket(connection)

    async def socket_again(self, *, heartbeat: float | None = 20.0) -> ProbeSocket:
        """Open an event socket after others were closed, which the cloud may notice late.

        Raises `aiohttp.WSServerHandshakeError` when it is refused for some seconds.
        """
        for _ in range(2):
            try:
                return await self.socket(heartbeat=heartbeat)
            except aiohttp.WSServerHandshakeError:
                await asyncio.sleep(_PAUSE)
        return await self.socket(heartbeat=heartbeat)

    async def _send(self, method: str, url: URL, **options: Any) -> Reply:
        begun = time.monotonic()
        async with self.session.request(method, url, allow_redirects=False, **options) as answer:
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise aiohttp.ClientPayloadError("the answer is too large")
            at = time.monotonic()
            self.limits |= {
                name.lower()
                for name in answer.headers
                if "ratelimit" in name.lower().replace("-", "") or name.lower() == "retry-after"
            }
            if not url.path.startswith("/api/v2"):
                self.endings |= {"deprecation", "sunset"} & {
                    name.lower() for name in answer.headers
                }
            return Reply(answer.status, answer.headers, bytes(body), at - begun, at)


async def attempt(findings: Findings, step: Awaitable[None]) -> None:
    """Do a step of the probe. One that fails leaves its points unseen."""
    try:
        await step
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        findings.failures.append(type(error).__name__)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        findings.failures.append(f"an answer of unknown form ({type(error).__name__})")


@dataclass(slots=True)
class ProbeRun:
    """What the steps of a run share. `jobs` and `files` are what is to be removed."""

    wire: Wire
    findings: Findings
    classes: dict[str, Any]
    announced: ProbeSocket
    silent: ProbeSocket
    upload: str = ""
    jobs: list[str] = field(default_factory=list)

    async def submit(self, graph: Graph, **more: Any) -> Reply:
        """Submit a graph with `POST /api/prompt`; the clean-up knows the job."""
        reply = await self.wire.call("POST", "api/prompt", json={"prompt": graph, **more})
        if (job := reply.job) is not None and job not in self.jobs:
            self.jobs.append(job)
        return reply

    async def ended(self, job: str) -> bool:
        """Wait for the event that ends a job, and for what follows directly."""
        done = await self.announced.until(
            lambda seen: any(f.type in _ENDS and f.job == job for f in seen), JOB
        )
        await self.announced.quiet(0.4, 2.0)
        return done

    async def detail(self, job: str) -> Reply:
        """Return the answer of `GET /api/jobs/{id}`."""
        return await self.wire.call("GET", f"api/jobs/{job}")

    async def reaches(self, job: str, statuses: Iterable[str], seconds: float) -> str | None:
        """Wait until a job has one of the friendly statuses; which one, or `None`."""
        wanted, deadline = set(statuses), time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = (await self.detail(job)).dict().get("status")
            if status in wanted:
                return str(status)
            await asyncio.sleep(LOOK)
        return None

    async def cancel(self, job: str) -> None:
        """Cancel a job with `POST /api/jobs/{id}/cancel`."""
        await self.wire.call("POST", f"api/jobs/{job}/cancel")

    async def stop(self, jobs: Iterable[str]) -> None:
        """Cancel those of the jobs that are the probe's, and wait a little for their ends."""
        for job in jobs:
            if job in self.jobs:
                await self.cancel(job)
                await self.reaches(job, ("completed", "failed", "cancelled"), 5.0)
