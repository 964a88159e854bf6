"""`run`: one workflow through the local API, from its file to its outputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from rich.console import Console

from proxy.cli.comfy import (
    Comfy,
    Graph,
    RefusedError,
    assign,
    download,
    failure_of,
    files_of,
    load_workflow,
    require_folder,
    texts_of,
)
from proxy.cli.common import CommandError
from proxy.cli.progress import Display, counted
from proxy.cloud.resilience import Backoff
from proxy.translate import codec

#: Seconds between two looks at the history, with the websocket open and without it.
POLL_WITH_SOCKET = 3.0
POLL_WITHOUT_SOCKET = 1.0
POLL_AT_THE_END = 0.1

#: Seconds for which a server may be away in the middle of a job.
PATIENCE = 60.0

_LAST_EVENTS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class Follower:
    """Follows one job. Let it listen before the submission and tell it the `prompt_id` after.

    The websocket is opened again whenever it breaks; without it the history tells the end.
    """

    def __init__(self, comfy: Comfy, client_id: str, display: Display) -> None:
        self._prompt_id: str | None = None
        self._early: list[aiohttp.WSMessage] = []
        self._comfy = comfy
        self._client_id = client_id
        self._display = display
        self._tried = asyncio.Event()
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()

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
        """The history entry of the job, once it has ended.

        Raises `CommandError` when the job is gone from the server, or the server itself.
        """
        self._prompt_id = prompt_id
        while self._early:
            self._take(self._early.pop(0))
        clock = asyncio.get_running_loop()
        silent_since: float | None = None
        missed = 0
        while True:
            await self._wait()
            try:
                entry = await self._comfy.history(prompt_id)
                if entry is None and not self._ended.is_set():
                    missed = 0 if await self._queued(prompt_id) else missed + 1
                silent_since = None
            except (aiohttp.ClientError, TimeoutError) as error:
                silent_since = silent_since or clock.time()
                if clock.time() - silent_since > PATIENCE:
                    raise CommandError(
                        f"{self._comfy.base_url} has not answered for {PATIENCE:g} seconds "
                        f"({error}): look for job {prompt_id} in its history."
                    ) from None
                continue
            if entry is not None:
                return entry
            if missed >= 2:
                raise CommandError(
                    f"The server knows nothing of job {prompt_id} any more: it was removed "
                    "from the queue or the server was restarted, so submit it again."
                )

    async def _queued(self, prompt_id: str) -> bool:
        """Whether the job still waits or runs, or has ended while we were looking."""
        running, pending = await self._comfy.queued()
        return prompt_id in running | pending or await self._comfy.history(prompt_id) is not None

    async def _wait(self) -> None:
        if self._ended.is_set():
            await asyncio.sleep(POLL_AT_THE_END)
            return
        with suppress(TimeoutError):
            connected = self._connected.is_set()
            async with asyncio.timeout(POLL_WITH_SOCKET if connected else POLL_WITHOUT_SOCKET):
                await self._ended.wait()

    async def _listen(self) -> None:
        backoff, failures = Backoff(first=0.5, longest=10.0), 0
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self._comfy.socket(self._client_id) as socket:
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
            self._display.frame(message.data, self._prompt_id)
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
        self._display.event(str(kind), data)
        if kind in _LAST_EVENTS or (kind == "executing" and data.get("node") is None):
            self._ended.set()


#: The exit code of a program that Ctrl-C ended.
CANCELLED = 130


def run(
    workflow: Path,
    *,
    server: str,
    output: Path,
    assignments: Sequence[str] = (),
    console: Console | None = None,
) -> int:
    """Run the workflow. Returns 0, or 130 if Ctrl-C cancelled it.

    Raises `CommandError` for a workflow or an assignment that makes no sense, for a folder that
    cannot be written, for a server that is not there, and with the node's error when the workflow
    was refused or failed.
    """
    graph = load_workflow(workflow)
    for assignment in assignments:
        assign(graph, assignment)
    # asyncio.run turns Ctrl-C into a cancellation of the task, which is answered by
    # cancelling the job; a second Ctrl-C ends the process.
    return asyncio.run(run_graph(graph, server, output.absolute(), console or Console()))


async def run_graph(graph: Graph, server: str, output: Path, console: Console) -> int:
    """`run` for a graph; cancelling it cancels the job."""
    await asyncio.to_thread(require_folder, output)
    async with Comfy.at(server) as comfy:
        display = Display(graph, console)
        prompt_id = str(uuid4())
        try:
            with display:
                entry = await _follow(comfy, graph, prompt_id, display)
        except asyncio.CancelledError:
            await _cancel(comfy, prompt_id)
            display.say("cancelled")
            return CANCELLED
        except RefusedError as error:
            raise CommandError(_refusal(display, error.body)) from None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CommandError(
                f"There is no ComfyUI at {comfy.base_url} ({error}): start the proxy by "
                "comfy-cloud-proxy serve, or name another by --server."
            ) from None
        failure = failure_of(entry)
        if failure is not None:
            raise CommandError(_failure(display, *failure))
        await _collect(comfy, entry, output, display)
        return 0


async def _follow(comfy: Comfy, graph: Graph, prompt_id: str, display: Display) -> dict[str, Any]:
    client_id = uuid4().hex
    follower = Follower(comfy, client_id, display)
    async with follower.listening():
        answer = await comfy.submit(graph, client_id=client_id, prompt_id=prompt_id)
        for line in _node_errors(display, answer.get("node_errors")):
            display.say(line)
        chosen = str(answer["prompt_id"])
        try:
            return await follower.result(chosen)
        except asyncio.CancelledError:
            if chosen != prompt_id:  # an old server, which chooses ids itself
                await _cancel(comfy, chosen)
            raise


async def _collect(comfy: Comfy, entry: dict[str, Any], output: Path, display: Display) -> None:
    for text in texts_of(entry):
        display.say(f"text  {text}")
    files = files_of(entry)
    for file in files:
        path = await download(comfy, file, output)
        display.say(f"saved {path.relative_to(output)}")
    previews = f" and {counted(display.previews, 'live preview')}" if display.previews else ""
    where = f" in {output}" if files else ""
    display.say(f"{counted(len(files), 'file')}{where}{previews}")


async def _cancel(comfy: Comfy, prompt_id: str) -> None:
    """Cancel the job wherever it is now, within a few seconds.

    It may move from the queue to the machine between two calls, hence the repetition. The
    interrupt is only sent while the job runs: old servers stop whatever runs then.
    """
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(10):
            while True:
                running, pending = await comfy.queued()
                if prompt_id in running:
                    await comfy.interrupt(prompt_id)
                elif prompt_id in pending:
                    await comfy.delete(prompt_id)
                else:
                    return
                await asyncio.sleep(0.2)


def _refusal(display: Display, body: dict[str, Any]) -> str:
    error = body.get("error")
    if isinstance(error, dict):
        error = " - ".join(
            str(part) for part in (error.get("message"), error.get("details")) if part
        )
    return "\n".join([f"refused: {error}", *_node_errors(display, body.get("node_errors"))])


def _node_errors(display: Display, node_errors: object) -> Iterator[str]:
    for node_id, about in node_errors.items() if isinstance(node_errors, dict) else ():
        yield display.name(node_id)
        for error in _dicts(about.get("errors") if isinstance(about, dict) else None):
            details = error.get("details")
            yield f"    {error.get('message', '')}{f': {details}' if details else ''}"


def _dicts(value: object) -> Iterable[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def _failure(display: Display, kind: str, data: dict[str, Any]) -> str:
    if kind == "execution_interrupted":
        return "cancelled by somebody else"
    node = data.get("node_id")
    where = f"{display.name(node)} failed" if node else "the workflow failed"
    message = str(data.get("exception_message") or "the server does not say why").strip()
    kind = data.get("exception_type") or ""
    return f"{where}: {f'{kind}: ' if kind else ''}{message}"
