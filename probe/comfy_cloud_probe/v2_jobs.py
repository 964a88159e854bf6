"""What is observed of API v2's jobs: a whole one, refusals, failures and cancels."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from typing import Any
from uuid import uuid4

from comfy_cloud_probe import workflows
from comfy_cloud_probe.surface import V2Surface, hours, outcome, present, word
from comfy_cloud_probe.v2_streams import StreamWatch, watched
from comfy_cloud_probe.wire import Graph, Reply
from proxy.translate.reading import field_of, object_of, objects_of

#: What differs from run to run in the name of an output: an id or a hash, the counter, and the
#: letters of temporary ones.
_ID, _COUNTER = re.compile(r"[0-9a-f-]{32,}"), re.compile(r"\d{3,}")
_RANDOM = re.compile(r"(?<=ComfyUI_temp_)[a-z]{5}")
#: The forms that errors of nodes have in a refusal.
_NODE_ERRORS = ("node_errors as ComfyUI's", "node_errors of fields and reasons")
_TIMES = ("started_at", "completed_at", "metrics")
_ERROR = ("code", "message", "node_id", "class_type", "traceback")
#: The label by which a job of the probe is looked for.
_LABEL = "ccp_probe"


async def whole(surface: V2Surface) -> str | None:
    """Observe a whole job, from its submission to its outputs. Return the id of a picture of it."""
    graph = workflows.outputs(surface.classes)
    job, reply = await surface.submit(graph)
    surface.see("accepts", "accepted" if job else outcome(reply))
    if job is None:
        return None
    watch, stream = await asyncio.gather(surface.until(job), watched(surface, job))
    waited = "" if watch.waited is None else f"{watch.waited:.0f} s until it ran"
    surface.see("states", ", then ".join(watch.states), waited)
    surface.see("polled_progress", watch.progress)
    _see_stream(surface, stream)
    ended = watch.job
    surface.see("end", word(ended.get("status")))
    surface.see("times", present(ended, *_TIMES))
    surface.see("retention", hours(ended.get("created_at"), ended.get("expires_at")))
    return _see_outputs(surface, graph, objects_of(ended.get("outputs")))


def _see_stream(surface: V2Surface, stream: StreamWatch) -> None:
    surface.see("stream", stream.types)
    surface.see("stream_progress", stream.fields)
    surface.see("stream_order", stream.order)
    surface.see("stream_end", stream.end)


def _see_outputs(surface: V2Surface, graph: Graph, outputs: list[dict[str, Any]]) -> str | None:
    """Observe the outputs of a job. Return the id of a picture."""
    lines = Counter(_line(graph, item) for item in outputs)
    counted = [f"{count} x {line}" for line, count in sorted(lines.items())]
    surface.see("outputs", ", ".join(counted) or "none")
    names = {_pattern(str(item.get("name"))) for item in outputs}
    surface.see("output_names", ", ".join(sorted(names)) or "none")
    listed = [str(item.get("name")) for item in outputs if item.get("node_id") == "7"]
    surface.see("output_order", "by name" if listed == sorted(listed) else "another")
    equal = [item for item in outputs if item.get("node_id") == "2"]
    ids, hashes = ({item.get(key) for item in equal} - {None} for key in ("id", "hash"))
    surface.see("equal_pictures", f"{len(equal)} entries, {len(ids)} ids, {len(hashes)} hashes")
    return next((item["id"] for item in equal if isinstance(item.get("id"), str)), None)


def _line(graph: Graph, output: dict[str, Any]) -> str:
    class_type = graph.get(str(output.get("node_id")), {}).get("class_type", "no node")
    return f"{class_type} {word(output.get('type'))} {word(output.get('content_type'))}"


def _pattern(name: str) -> str:
    """Return a name without what differs from run to run."""
    return word(_RANDOM.sub("*", _COUNTER.sub("#", _ID.sub("<id>", name))))


# --- refusals ------------------------------------------------------------------------------


async def refusals(surface: V2Surface) -> None:
    """Observe graphs that cannot run, and fields that API v2 does not have."""
    unknown: Graph = {"1": {"class_type": f"Unknown{uuid4().hex}", "inputs": {}}}
    graphs = {
        "unknown_class": unknown,
        "wrong_value": workflows.out_of_bounds(),
        "invalid": workflows.invalid(),
        "half_valid": workflows.partly_valid(),
    }
    details = {"none"}
    for name, graph in graphs.items():
        job, reply = await surface.submit(graph)
        surface.see(name, outcome(reply))
        if job is None:
            details.add(_details(reply))
        elif name == "invalid":
            ended = (await surface.until(job)).job
            error = ended.get("error")
            surface.see("failure", present(object_of(error), *_ERROR))
            ran = present(ended, "started_at", "metrics") != "none"
            surface.see("failure_charged", "a worker ran" if ran else "no worker ran")
    forms = [form for form in (*_NODE_ERRORS, "other details", "none") if form in details]
    surface.see("details", forms[0])
    for name in ("failure", "failure_charged"):
        surface.miss("The graph was refused.", name)
    _, reply = await surface.submit(workflows.tiny(), client_id="probe", number=1)
    surface.see("unknown_fields", outcome(reply))
    pnginfo = {"extra_pnginfo": {"workflow": {"id": "probe"}}}
    _, reply = await surface.submit(workflows.tiny(), extra_data=pnginfo)
    surface.see("extra_pnginfo", outcome(reply))


def _details(reply: Reply) -> str:
    """Return the form of the errors of nodes in a refusal."""
    details = field_of(reply.dict(), "error", "details")
    errors = field_of(details, "node_errors")
    about = next(iter(errors.values()), None) if isinstance(errors, dict) else None
    if isinstance(about, dict):
        return _NODE_ERRORS[0]
    if isinstance(about, list):
        return _NODE_ERRORS[1]
    return "other details" if details else "none"


# --- failures and cancels ------------------------------------------------------------------


async def failure(surface: V2Surface) -> None:
    """Observe a node that raises."""
    graph = workflows.failing(surface.classes)
    if not graph:
        surface.miss("The class RegexReplace is not known to be there.", "exception", "traceback")
        return
    watch, reply = await surface.ran(graph)
    error = {} if watch is None else watch.job.get("error")
    if not isinstance(error, dict) or not error:
        surface.see("exception", outcome(reply) if watch is None else word(watch.job.get("status")))
        return
    surface.see("exception", present(error, *_ERROR))
    lines = str(error.get("traceback") or "").strip().splitlines()
    surface.see("traceback", word(lines[-1].partition(":")[0]) if lines else "none")


async def cancels(surface: V2Surface) -> None:
    """Observe labels and lists, and jobs that are cancelled at once and while they run."""
    slow = workflows.slow(surface.classes) or workflows.tiny()
    labels = {_LABEL: uuid4().hex}
    job, reply = await surface.submit(slow, metadata=labels)
    surface.see("labels", outcome(reply))
    labelled = job is not None
    if job is None:
        job, _ = await surface.submit(slow)
    if job is not None:
        await _cancelled(surface, "cancel", job)
    surface.see("list", outcome(await surface.call("GET", "jobs")))
    if labelled:
        await _listed(surface, job, labels[_LABEL])
    else:
        surface.miss("Labels are refused.", "list_by_label")
    job, _ = await surface.submit(slow)
    if job is not None:
        await surface.until(job, "running")
        await _cancelled(surface, "cancel_running", job)


async def _listed(surface: V2Surface, job: str | None, label: str) -> None:
    query = {f"metadata[{_LABEL}]": label, "limit": "5"}
    listed = objects_of((await surface.call("GET", "jobs", query=query)).dict().get("jobs"))
    ids = {item.get("id") for item in listed}
    found = "the job" if ids == {job} else "others too" if job in ids else "not the job"
    surface.see("list_by_label", found if ids else "none")


async def _cancelled(surface: V2Surface, point: str, job: str) -> None:
    answer = (await surface.cancel(job)).dict().get("status")
    watch = await surface.until(job)
    times = present(watch.job, *_TIMES)
    error = "an error" if watch.job.get("error") else "no error"
    surface.see(point, f"{word(answer)}, then {word(watch.job.get('status'))}, {error}", times)
