"""`run`: workflows through the local API, from their files to their outputs.

A workflow is a file of either format or a picture that holds one; `--set` changes its inputs.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import aiohttp
from msgspec import Struct, field
from msgspec.structs import asdict
from rich.console import Console

from proxy.cli.comfy import Comfy, Graph, RefusedError
from proxy.cli.common import CommandError, UsageError
from proxy.cli.follower import Follower
from proxy.cli.outputs import download, failure_of, files_of, require_writable, texts_of
from proxy.cli.progress import Display, counted
from proxy.cli.tables import say
from proxy.cli.workflows import SUFFIXES, Workflow, assignment_of, load_workflow, value_of
from proxy.runtime import clock, randomness
from proxy.translate.reading import field_of, object_of, objects_of, text_of

#: Seconds between two scans of a folder.
LOOK_INTERVAL = 1.0
#: Stands in `--set` for each new file of a folder.
FILE = "{}"

#: Names that are shown instead of one that a server does not know.
MAX_NEAREST = 3

#: The exit code when Ctrl-C or SIGTERM cancels a workflow.
CANCELLED = 130


class Request(Struct, frozen=True):
    """The arguments of `run`; `watch` is a folder whose new files are run too."""

    workflows: Sequence[Path]
    server: str
    output: Path
    token: str | None = None
    assignments: Sequence[str] = ()
    watch: Path | None = None
    previews: bool = True
    as_json: bool = False
    ca_file: Path | None = None


class Outcome(Struct):
    """How a run ended: what `--json` prints. `status` is `success`, `error` or `cancelled`.

    `prompt_id` is empty for a workflow that the server has not taken. `error_type` is the server's
    type of a refusal, a node's type of exception, `execution_interrupted`, `usage` or `failed`.
    """

    workflow: str = ""
    prompt_id: str = ""
    status: str = "success"
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    error_type: str | None = None


def run(request: Request) -> int:
    """Run the workflows, one after the other. Returns 0, the worst exit code of one, or 130.

    Raises `CommandError` for a file that holds no workflow, and for folders that cannot be used.
    """
    workflows = [load_workflow(path) for path in request.workflows]
    output, watch = request.output.absolute(), request.watch
    if watch is None and not workflows:
        raise UsageError(
            "Nothing to run: name a workflow or set --watch, see comfy-cloud-proxy run --help."
        )
    if watch is not None:
        if not watch.is_dir():
            raise UsageError(f"The folder {watch.absolute()} does not exist: correct --watch.")
        if watch.absolute() == output:
            raise UsageError(
                "--watch would run the outputs again: choose another folder with --output."
            )
        if workflows and not any(FILE in text for text in request.assignments):
            raise UsageError(
                f"With a workflow and --watch, set the input for each new file: --set "
                f"NODE.INPUT=@{FILE}."
            )
    require_writable(output)
    # Ctrl-C becomes a cancellation of the task, which is answered by cancelling the job; a second
    # one ends that.
    try:
        return asyncio.run(_run_all(request, workflows))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return CANCELLED


async def _run_all(request: Request, workflows: Sequence[Workflow]) -> int:
    task = cast("asyncio.Task[int]", asyncio.current_task())
    with suppress(NotImplementedError):  # Windows, where asyncio.run sees to Ctrl-C
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    console = Console(stderr=request.as_json)
    worst = 0
    async for workflow, values in _work(request, workflows, console):
        outcome, code = await _run_one(request, workflow, values, console)
        if request.as_json:
            say(json.dumps(asdict(outcome)))
        # A cancellation that comes as a connection fails can end as an error of the connection.
        if code == CANCELLED or task.cancelling():
            return CANCELLED
        worst = max(worst, code)
    return worst


async def _work(
    request: Request, workflows: Sequence[Workflow], console: Console
) -> AsyncIterator[tuple[Workflow, Sequence[str]]]:
    """Yield the workflows to run, each with its assignments."""
    if request.watch is None:
        for workflow in workflows:
            yield workflow, request.assignments
        return
    known = await asyncio.to_thread(_files_in, request.watch)
    console.print(
        f"watching {request.watch} (Ctrl-C stops)", markup=False, highlight=False, soft_wrap=True
    )
    async for path in new_files(request.watch, known):
        values = [text.replace(FILE, str(path)) for text in request.assignments]
        for workflow in workflows:
            yield workflow, values
        if not workflows and path.suffix.lower() in SUFFIXES:
            try:
                yield load_workflow(path), values
            except CommandError as error:
                say(str(error), err=True)


#: Size and time of change of each file.
_States = Mapping[Path, tuple[int, int]]


async def new_files(folder: Path, known: _States) -> AsyncIterator[Path]:
    """Yield the files of a folder that differ from `known`, once two looks have found them
    unchanged."""
    before = known
    while True:
        await asyncio.sleep(LOOK_INTERVAL)
        now = await asyncio.to_thread(_files_in, folder)
        for path, state in sorted(now.items()):
            if state != known.get(path) and state == before.get(path):
                known = {**known, path: state}
                yield path
        before = now


def _files_in(folder: Path) -> _States:
    """Return the files that are not hidden."""
    found = {}
    for path in folder.iterdir():
        with suppress(OSError):
            if path.is_file() and not path.name.startswith("."):
                state = path.stat()
                found[path] = (state.st_size, state.st_mtime_ns)
    return found


async def _run_one(
    request: Request, workflow: Workflow, values: Sequence[str], console: Console
) -> tuple[Outcome, int]:
    """Run a workflow; an error is printed and part of the outcome."""
    if len(request.workflows) > 1 or request.watch is not None:
        console.print(workflow.name, style="bold", markup=False, highlight=False)
    outcome = Outcome(workflow.name)
    try:
        async with Comfy.at(request.server, request.token, request.ca_file) as comfy:
            classes = {} if workflow.graph else await comfy.classes(workflow.classes)
            graph = workflow.converted(classes)
            for assignment in [assignment_of(graph, text) for text in values]:
                value = await value_of(assignment, graph, comfy.upload)
                graph[assignment.node]["inputs"][assignment.input] = value
                outcome.values[f"{assignment.node}.{assignment.input}"] = value
            display = Display(graph, console, previews=request.previews)
            for name, value in outcome.values.items():
                display.say(f"set   {name} = {value}")
            await run_graph(comfy, graph, request.output.absolute(), display, outcome)
    except CommandError as error:
        outcome.status, outcome.error = "error", str(error)
        if outcome.error_type is None:
            outcome.error_type = "usage" if isinstance(error, UsageError) else "failed"
        say(str(error), err=True)
        return outcome, error.exit_code
    return outcome, CANCELLED if outcome.status == "cancelled" else 0


async def run_graph(
    comfy: Comfy, graph: Graph, output: Path, display: Display, outcome: Outcome
) -> None:
    """Run a graph, and write to `outcome` how it ended; cancelling this cancels the job.

    Raises `CommandError` with the node's error when the graph was refused or failed.
    """
    started = clock.monotonic()
    try:
        with display:
            entry = await _follow(comfy, graph, display, outcome)
    except asyncio.CancelledError:
        await _cancel(comfy, outcome.prompt_id)
        display.say("cancelled")
        outcome.status = "cancelled"
        return
    except RefusedError as error:
        outcome.error_type = text_of(field_of(error.body, "error", "type")) or "refused"
        nearest = await _nearest(comfy, error.body)
        raise CommandError(_refusal(display, error.body, nearest)) from None
    finally:
        outcome.seconds = round(clock.monotonic() - started, 3)
    failure = failure_of(entry)
    if failure is not None:
        kind, data = failure
        outcome.error_type = text_of(data.get("exception_type")) or kind
        raise CommandError(_failure(display, *failure))
    await _collect(comfy, entry, output, display, outcome)


async def _follow(comfy: Comfy, graph: Graph, display: Display, outcome: Outcome) -> dict[str, Any]:
    client_id = randomness.uuid4().hex
    follower = Follower(comfy, client_id, display)
    async with follower.listening():
        outcome.prompt_id = str(randomness.uuid4())
        try:
            answer = await comfy.submit(
                graph,
                name=Path(outcome.workflow).stem,
                client_id=client_id,
                prompt_id=outcome.prompt_id,
            )
        except (RefusedError, CommandError, aiohttp.ClientConnectorError):
            outcome.prompt_id = ""
            raise
        except aiohttp.ClientResponseError as error:
            if error.status < 500:  # else the server behind a gateway may have the job
                outcome.prompt_id = ""
            raise
        for line in _node_errors(display, answer.get("node_errors")):
            display.say(line)
        outcome.prompt_id = str(answer["prompt_id"])  # an old server chooses ids itself
        return await follower.result(outcome.prompt_id)


async def _collect(
    comfy: Comfy, entry: dict[str, Any], output: Path, display: Display, outcome: Outcome
) -> None:
    outcome.texts = texts_of(entry)
    for text in outcome.texts:
        display.say(f"text  {text}")
    for file in files_of(entry):
        path = await download(comfy, file, output)
        outcome.files.append(str(path))
        display.say(f"saved {path.relative_to(output)}")
        display.show(path)
    previews = f" and {counted(display.previews, 'live preview')}" if display.previews else ""
    where = f" in {output}" if outcome.files else ""
    count = counted(len(outcome.files), "file")
    display.say(f"{outcome.seconds:.1f} s: {count}{where}{previews}")
    if problem := await comfy.problem():
        display.say(f"problem on the server: {problem}")


async def _cancel(comfy: Comfy, prompt_id: str) -> None:
    """Cancel the job wherever it is now, within a few seconds.

    It may move from the queue to the machine between two calls, so it repeats. The
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


async def _nearest(comfy: Comfy, body: dict[str, Any]) -> dict[tuple[str, str], list[str]]:
    """Return the choices that are closest to those that a server does not know, by node and input.

    ComfyUI lists the choices of an input only where they are few.
    """
    found = {}
    node_errors = body.get("node_errors")
    for node_id, about in object_of(node_errors).items():
        for error in _errors_of(about):
            info = error.get("extra_info")
            if error.get("type") != "value_not_in_list" or not isinstance(info, dict):
                continue
            name = str(info.get("input_name"))
            classes = await comfy.classes({str(about.get("class_type"))})
            choices = _choices(classes.get(str(about.get("class_type"))), name)
            given = str(info.get("received_value"))
            found[node_id, name] = get_close_matches(given, choices, n=MAX_NEAREST, cutoff=0.3)
    return found


def _choices(node_class: Any, name: str) -> list[str]:
    """Return the choices of an input, by the entry of its class in `object_info`."""
    with suppress(KeyError, TypeError, IndexError, AttributeError):
        for inputs in node_class["input"].values():
            if name in inputs:
                kind, *options = inputs[name]
                listed = kind if isinstance(kind, list) else options[0]["options"]
                return [choice for choice in listed if isinstance(choice, str)]
    return []


def _refusal(
    display: Display, body: dict[str, Any], nearest: Mapping[tuple[str, str], list[str]]
) -> str:
    error = body.get("error")
    if isinstance(error, dict):
        parts = [str(part) for part in (error.get("message"), error.get("details")) if part]
        # ComfyUI's message has the title of a missing node, and only that.
        class_type = text_of(field_of(error, "extra_info", "class_type"))
        if class_type and not any(class_type in part for part in parts):
            parts.append(f"class {class_type}")
        error = " - ".join(parts)
    lines = _node_errors(display, body.get("node_errors"), nearest)
    return "\n".join([f"refused: {error or 'the server gives no reason'}", *lines])


def _node_errors(
    display: Display,
    node_errors: object,
    nearest: Mapping[tuple[str, str], list[str]] = MappingProxyType({}),
) -> Iterator[str]:
    for node_id, about in object_of(node_errors).items():
        yield display.name(node_id)
        for error in _errors_of(about):
            details = error.get("details")
            yield f"    {error.get('message', '')}{f': {details}' if details else ''}"
            info = error.get("extra_info")
            name = str(info.get("input_name")) if isinstance(info, dict) else ""
            if choices := nearest.get((node_id, name)):
                yield f"    nearest: {', '.join(choices)}"


def _errors_of(about: Any) -> list[dict[str, Any]]:
    """Return the errors of one node in `node_errors`."""
    return objects_of(field_of(about, "errors"))


def _failure(display: Display, kind: str, data: dict[str, Any]) -> str:
    if kind == "execution_interrupted":
        return "cancelled on the server"
    node = data.get("node_id")
    where = f"{display.name(node)} failed" if node else "the workflow failed"
    message = str(data.get("exception_message") or "the server gives no reason").strip()
    kind = data.get("exception_type") or ""
    return f"{where}: {f'{kind}: ' if kind else ''}{message}"
