"""A client of the local API, of a proxy or of any ComfyUI."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from proxy.cli.common import CommandError, UsageError
from proxy.cloud.http import connection_error
from proxy.translate import codec
from proxy.translate.reading import object_of

Graph = dict[str, dict[str, Any]]

#: Seconds of silence after which a server counts as gone.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)

#: What a server that is not ComfyUI answers to the calls of one.
_NOT_COMFYUI = frozenset({400, 404, 405, 501})

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
                    f"({_reason(error)}): set --ca-file or SSL_CERT_FILE to the "
                    "PEM file of its authority, or to the certificate itself."
                ) from None
            except aiohttp.ClientSSLError as error:
                raise CommandError(
                    f"There is no TLS connection to {comfy.base_url} ({_reason(error)}): check the "
                    "scheme and the port of --server."
                ) from None
            except (aiohttp.ClientError, TimeoutError) as error:
                remedy = "start the proxy with comfy-cloud-proxy serve, or set --server"
                if url.scheme == "http" and _was_cut(error):
                    remedy = f"if the server has TLS, use --server {url.with_scheme('https')}"
                raise CommandError(
                    f"There is no ComfyUI at {comfy.base_url} ({_reason(error)}): {remedy}."
                ) from None

    async def submit(
        self, graph: Graph, *, name: str, client_id: str, prompt_id: str
    ) -> dict[str, Any]:
        """Submit the graph; the answer has `prompt_id` and perhaps `node_errors`.

        `name` is what the proxy calls the job in its lists. Old servers choose a `prompt_id` of
        their own. Raises `RefusedError`, and `CommandError` where something else than a ComfyUI
        answers.
        """
        body = codec.dump_bytes(
            {
                "prompt": graph,
                "client_id": client_id,
                "prompt_id": prompt_id,
                "extra_data": {"workflow_name": name},
            }
        )
        async with self.session.post(
            self.base_url / "prompt", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            answer = {} if response.status == 401 else _object(await response.read())
            if response.status == 200 and "prompt_id" in answer:
                return answer
            if not answer.keys() & {"error", "node_errors"}:
                response.raise_for_status()
                raise CommandError(_no_comfyui(self.base_url, response.status))
            raise RefusedError(answer)

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

    async def problem(self) -> str | None:
        """Return what a proxy says is wrong although it runs jobs; `None` for any other server."""
        with suppress(aiohttp.ClientResponseError):
            found = (await self._ask("GET", "proxy", "api", "interface")).get("problem")
            return found if isinstance(found, str) else None
        return None

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
    """Return why there is no connection, without the wording of libraries around it."""
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=inner):
            return getattr(inner, "verify_message", "") or str(inner)
        case aiohttp.ClientConnectorError(os_error=inner):
            return connection_error(inner)
        case _:
            return str(error) or "it does not answer"


def _was_cut(error: Exception) -> bool:
    """Return whether the server has ended a connection, as one with TLS ends one without."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)


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
    if status in _NOT_COMFYUI:
        return _no_comfyui(server, status)
    return f"{server} answered with status {status}: try again later, or set --server."


def _no_comfyui(server: URL, status: int) -> str:
    return f"There is no ComfyUI at {server} (it answered with status {status}): correct --server."


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = codec.loads(data)
    except ValueError:
        return {}
    return object_of(value)
