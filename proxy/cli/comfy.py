"""A client of the local API, of a proxy or of any ComfyUI: its calls, its jobs and their files."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import aiohttp
from yarl import URL

from proxy.cli.common import CommandError, UsageError
from proxy.cli.progress import Display
from proxy.cloud.resilience import Backoff
from proxy.translate import codec

Graph = dict[str, dict[str, Any]]

#: Seconds of silence after which a server counts as gone.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)

_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


class RefusedError(Exception):
    """Raised when the server refuses the workflow. `body` is ComfyUI's `{"error",
    "node_errors"}`."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__("the server refused the workflow")
        self.body = body


@dataclass(frozen=True, slots=True)
class Comfy:
    """The calls that running a workflow takes.

    Every call may raise `aiohttp.ClientError` or `TimeoutError`.
    """

    session: aiohttp.ClientSession
    base_url: URL

    @classmethod
    @asynccontextmanager
    async def at(
        cls, server: str, token: str | None = None, ca_file: Path | None = None
    ) -> AsyncIterator[Comfy]:
        """Return a context manager with a client of the server, whose address may lack `http://`; a
        gateway needs a token.

        With a `ca_file` the certificate authorities in it are trusted, and no others.

        Raises `CommandError` when it is no address, and for calls in the block that the server
        does not answer.
        """
        try:
            url = URL(server if "://" in server else f"http://{server}")
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise UsageError(
                f"--server {server} is not an address: use one such as http://127.0.0.1:8188."
            )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connector = aiohttp.TCPConnector(ssl=True if ca_file is None else _trusting(ca_file))
        async with aiohttp.ClientSession(
            connector=connector, timeout=_TIMEOUT, headers=headers
        ) as session:
            comfy = cls(session, url.with_query(None).with_fragment(None))
            try:
                yield comfy
            except aiohttp.ClientResponseError as error:
                raise CommandError(
                    _unwelcome(comfy.base_url, error.status, has_token=bool(token))
                ) from None
            except aiohttp.ClientConnectorCertificateError as error:
                raise CommandError(
                    f"The certificate of {comfy.base_url} is not trusted "
                    f"({_reason(error.certificate_error)}): set --ca-file or SSL_CERT_FILE to the "
                    "PEM file of its authority, or to the certificate itself."
                ) from None
            except aiohttp.ClientSSLError as error:
                raise CommandError(
                    f"There is no TLS connection to {comfy.base_url} ({error}): check the scheme "
                    "and the port of --server."
                ) from None
            except (aiohttp.ClientError, TimeoutError) as error:
                raise CommandError(
                    f"There is no ComfyUI at {comfy.base_url} ({error}): start the proxy with "
                    "comfy-cloud-proxy serve, or set --server."
                ) from None

    async def submit(self, graph: Graph, *, client_id: str, prompt_id: str) -> dict[str, Any]:
        """Submit the graph; the answer has `prompt_id` and perhaps `node_errors`.

        Old servers choose a `prompt_id` of their own. Raises `RefusedError`.
        """
        body = codec.dump_bytes({"prompt": graph, "client_id": client_id, "prompt_id": prompt_id})
        async with self.session.post(
            self.base_url / "prompt", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            if response.status == 401:
                response.raise_for_status()
            answer = _object(await response.read())
            if response.status != 200 or "prompt_id" not in answer:
                raise RefusedError(
                    answer or {"error": f"the server answered with status {response.status}"}
                )
            return answer

    async def classes(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the entries of `object_info` for those of these node classes that the server
        has."""
        found: dict[str, Any] = {}
        for name in sorted(names):
            try:
                found |= await self._ask("GET", "object_info", name)
            except aiohttp.ClientResponseError as error:
                if error.status != 404:
                    raise
        return found

    async def upload(self, path: Path) -> str:
        """Upload a file to the inputs; returns the name by which a node takes it.

        Raises `CommandError` for a file that cannot be read.
        """
        try:
            file = await asyncio.to_thread(lambda: path.expanduser().open("rb"))
        except OSError as error:
            raise UsageError(
                f"The file {path} cannot be read ({error.strerror}): correct its path."
            ) from None
        with file:
            form = aiohttp.FormData({"type": "input"})
            form.add_field("image", file, filename=path.name)
            answer = await self._ask("POST", "upload", "image", data=form)
        return "/".join(filter(None, (answer.get("subfolder"), str(answer.get("name")))))

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry of a finished job."""
        entry = (await self._ask("GET", "history", prompt_id)).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def queued(self) -> tuple[list[str], list[str]]:
        """Return the ids of the running and of the pending jobs, in the order in which they run."""
        answer = await self._ask("GET", "queue")
        running, pending = (
            [str(item[1]) for item in sorted(answer.get(key, ()), key=lambda item: item[0])]
            for key in ("queue_running", "queue_pending")
        )
        return running, pending

    async def delete(self, prompt_id: str) -> None:
        """Take a pending job out of the queue."""
        await self._ask("POST", "queue", json={"delete": [prompt_id]})

    async def interrupt(self, prompt_id: str) -> None:
        """Stop a running job."""
        await self._ask("POST", "interrupt", json={"prompt_id": prompt_id})

    @asynccontextmanager
    async def socket(self, client_id: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open the websocket of a client, and ask for previews with metadata."""
        url = (self.base_url / "ws").with_query(clientId=client_id)
        async with self.session.ws_connect(url, heartbeat=30, max_msg_size=0) as socket:
            await socket.send_json(_FLAGS)
            yield socket

    @asynccontextmanager
    async def view(self, file: dict[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
        """Return a context manager with the bytes of a file that an output names."""
        async with self.session.get(
            self.base_url / "view", params=file, raise_for_status=True
        ) as response:
            yield response.content

    async def _ask(self, method: str, *path: str, **body: Any) -> dict[str, Any]:
        url = self.base_url.joinpath(*path)
        async with self.session.request(method, url, raise_for_status=True, **body) as response:
            return _object(await response.read())


def _trusting(file: Path) -> ssl.SSLContext:
    """Return a context that trusts the authorities in a file. Raises `CommandError`."""
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise UsageError(f"The file {file} has no certificate in PEM: correct --ca-file.") from None
    except OSError as error:
        raise UsageError(
            f"The file {file} cannot be read ({error.strerror}): correct --ca-file."
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "verify_message", "") or str(error)


def _unwelcome(server: URL, status: int, *, has_token: bool) -> str:
    if status == 401 and has_token:
        return (
            f"{server} does not accept the token: it is wrong, expired or revoked. An admin "
            "creates a new one with comfy-cloud-proxy token new."
        )
    if status == 401:
        return (
            f"{server} requires a token: set --token-file or COMFY_TOKEN. An admin creates one "
            "with comfy-cloud-proxy token new."
        )
    return f"{server} answered with status {status}: try again later, or set --server."


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = codec.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


#: Seconds between two queries of the history, with the websocket open and without it.
POLL_WITH_SOCKET = 3.0
POLL_WITHOUT_SOCKET = 1.0
POLL_AT_THE_END = 0.1
#: Seconds before the first query, which says how many jobs are ahead.
POLL_FIRST = 0.2

#: Seconds for which a server may be away in the middle of a job.
ANSWER_TIMEOUT = 60.0

_LAST_EVENTS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


@dataclass(slots=True, eq=False)
class Follower:
    """A follower of one job. Let it listen before the submission and tell it the `prompt_id` after.

    The websocket is opened again whenever it breaks; without it the history tells the end.
    """

    comfy: Comfy
    client_id: str
    display: Display
    _prompt_id: str | None = None
    _early: list[aiohttp.WSMessage] = field(default_factory=list)
    _tried: asyncio.Event = field(default_factory=asyncio.Event)
    _connected: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Keep the websocket open; the block begins when a first try is over."""
        listener = asyncio.create_task(self._listen())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await self._tried.wait()
            yield
        finally:
            listener.cancel()
            await asyncio.wait([listener])

    async def result(self, prompt_id: str) -> dict[str, Any]:
        """Return the history entry of the job, once it has ended.

        Raises `CommandError` when the job is gone from the server, or the server itself.
        """
        self._prompt_id = prompt_id
        while self._early:
            self._take(self._early.pop(0))
        clock = asyncio.get_running_loop()
        silent_since: float | None = None
        missed = 0
        await self._wait(POLL_FIRST)
        while True:
            try:
                entry = await self.comfy.history(prompt_id)
                if entry is None and not self._ended.is_set():
                    missed = 0 if await self._queued(prompt_id) else missed + 1
                silent_since = None
            except (aiohttp.ClientError, TimeoutError) as error:
                silent_since = silent_since or clock.time()
                if clock.time() - silent_since > ANSWER_TIMEOUT:
                    raise CommandError(
                        f"{self.comfy.base_url} has not answered for {ANSWER_TIMEOUT:g} seconds "
                        f"({error}): check its history for job {prompt_id}."
                    ) from None
                entry = None
            if entry is not None:
                return entry
            if missed >= 2:
                raise CommandError(
                    f"The server no longer has job {prompt_id}: it was removed from the queue, or "
                    "the server was restarted. Submit it again."
                )
            await self._wait(POLL_WITH_SOCKET if self._connected.is_set() else POLL_WITHOUT_SOCKET)

    async def _queued(self, prompt_id: str) -> bool:
        """Return whether the job still waits or runs, or has ended during the check."""
        running, pending = await self.comfy.queued()
        if prompt_id in pending:
            self.display.waiting(len(running) + pending.index(prompt_id))
            return True
        return prompt_id in running or await self.comfy.history(prompt_id) is not None

    async def _wait(self, seconds: float) -> None:
        if self._ended.is_set():
            await asyncio.sleep(POLL_AT_THE_END)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    async def _listen(self) -> None:
        backoff, failures = Backoff(first=0.5, longest=10.0), 0
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self.comfy.socket(self.client_id) as socket:
                    self._connected.set()
                    self._tried.set()
                    failures = 0
                    async for message in socket:
                        self._take(message)
            self._tried.set()
            self._connected.clear()
            failures += 1
            await asyncio.sleep(backoff.after(failures))

    def _take(self, message: aiohttp.WSMessage) -> None:
        if self._prompt_id is None:
            self._early.append(message)
            return
        if message.type is aiohttp.WSMsgType.BINARY:
            self.display.frame(message.data, self._prompt_id)
        elif message.type is aiohttp.WSMsgType.TEXT:
            self._take_text(message.data)

    def _take_text(self, text: str) -> None:
        try:
            event = codec.loads(text)
        except ValueError:
            return
        kind, data = (event.get("type"), event.get("data")) if isinstance(event, dict) else ("", {})
        if not isinstance(data, dict) or data.get("prompt_id") != self._prompt_id:
            return
        self.display.event(str(kind), data)
        if kind in _LAST_EVENTS or (kind == "executing" and data.get("node") is None):
            self._ended.set()


#: Maximum number of attempts at a download.
_ATTEMPTS = 3


def files_of(entry: dict[str, Any]) -> list[dict[str, str]]:
    """Return the files that the outputs of a history entry name, each once, ready for `GET
    /view`."""
    files: dict[tuple[str, ...], dict[str, str]] = {}
    for item in _items(entry):
        if isinstance(item, dict) and isinstance(item.get("filename"), str):
            file = {
                "filename": item["filename"],
                "subfolder": str(item.get("subfolder") or ""),
                "type": str(item.get("type") or "output"),
            }
            files.setdefault(tuple(file.values()), file)
    return list(files.values())


def texts_of(entry: dict[str, Any]) -> list[str]:
    """Return the texts among the outputs of a history entry."""
    return [item for item in _items(entry, key="text") if isinstance(item, str)]


def _items(entry: dict[str, Any], key: str | None = None) -> Iterator[Any]:
    outputs = entry.get("outputs")
    for output in outputs.values() if isinstance(outputs, dict) else ():
        for name, items in output.items() if isinstance(output, dict) else ():
            if isinstance(items, list | tuple) and key in (None, name):
                yield from items


def require_writable(folder: Path) -> None:
    """Check that files can be written to the folder, or to the one that it would be created in.

    The folder is created with the first file. Raises `CommandError`.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"comfy-cloud-proxy")
    except OSError as error:
        raise _not_writable(folder, error) from None


async def download(comfy: Comfy, file: dict[str, str], folder: Path) -> Path:
    """Save a file beneath the folder and say where; nothing that is there is overwritten.

    Raises `CommandError` when the server does not give it or the folder cannot be written.
    """
    try:
        path, target = await asyncio.to_thread(_claim, folder, file)
    except OSError as error:
        raise _not_writable(folder, error) from None
    complete = False
    try:
        with target:
            await _fetch(comfy, file, target)
            complete = True
    except OSError as error:
        raise _not_writable(folder, error) from None
    finally:
        if not complete:
            path.unlink(missing_ok=True)
    return path


def _not_writable(folder: Path, error: OSError) -> CommandError:
    return CommandError(
        f"{folder} cannot be written ({error.strerror}): choose another folder with --output."
    )


async def _fetch(comfy: Comfy, file: dict[str, str], target: BinaryIO) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with comfy.view(file) as content:
                async for chunk in content.iter_chunked(1 << 16):
                    await asyncio.to_thread(target.write, chunk)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = error.status if isinstance(error, aiohttp.ClientResponseError) else None
            if attempt == _ATTEMPTS or (status is not None and status < 500):
                reason = f"status {status}" if status is not None else str(error)
                raise CommandError(
                    f"The output {file['filename']} cannot be downloaded "
                    f"({reason or type(error).__name__}): try {comfy.base_url / 'view' % file}."
                ) from None
            target.seek(0)
            target.truncate()
            await asyncio.sleep(attempt)
        else:
            return


def _claim(folder: Path, file: dict[str, str]) -> tuple[Path, BinaryIO]:
    """Open a new file of the output's name, or of the name with ` (1)`, ` (2)`… in it."""
    wanted = folder.joinpath(*_parts(file["subfolder"]), (_parts(file["filename"]) or ["file"])[-1])
    wanted.parent.mkdir(parents=True, exist_ok=True)
    path, count = wanted, 0
    while True:
        try:
            return path, path.open("xb")
        except FileExistsError:
            count += 1
            path = wanted.with_stem(f"{wanted.stem} ({count})")


def _parts(path: str) -> list[str]:
    """Return the parts of a server's path that cannot lead out of a folder."""
    pure = PurePosixPath("".join(filter(str.isprintable, path)).replace("\\", "/"))
    return [part for part in pure.parts if part not in ("/", "..") and not part.endswith(":")]


def failure_of(entry: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return how the job failed: `execution_error` or `execution_interrupted` and its data.

    `None` if it did not. Servers without a `status` in their history keep only what succeeded.
    """
    status = entry.get("status")
    if not isinstance(status, dict) or status.get("status_str", "success") == "success":
        return None
    for message in reversed(status.get("messages") or ()):
        if message[0] in ("execution_error", "execution_interrupted"):
            return message[0], message[1]
    return "execution_error", {}
