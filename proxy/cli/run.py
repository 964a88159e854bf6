"""`run`: one workflow through the local API, from its file to its outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
from rich.console import Console

from proxy.cli.comfy import Comfy, RefusedError
from proxy.cli.failure import CommandError
from proxy.cli.follow import Follower
from proxy.cli.outputs import download, failure_of, files_of, require_folder, texts_of
from proxy.cli.progress import Display, counted
from proxy.cli.workflow import Graph, assign, load_workflow

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
