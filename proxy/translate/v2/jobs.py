"""A job of API v2 as a snapshot: status, times in ms, outputs by node, and why it failed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from proxy.translate.graph_shape import class_of
from proxy.translate.jobs import inputs_of, is_link, links_of
from proxy.translate.reading import field_of, object_of, objects_of, text_of
from proxy.translate.snapshots import Snapshot, Status, unlisted_end, unlisted_message
from proxy.translate.times import ms_of
from proxy.translate.v2.assets import cloud_name

#: The statuses of API v2.
STATUSES: Mapping[str, Status] = {
    "queued": "pending",
    "running": "in_progress",
    "canceling": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "canceled": "cancelled",
    "expired": "failed",
}

#: The keys under which core nodes and known packs put their files; others by the file's type.
_KEYS = {
    **dict.fromkeys(("SaveImage", "PreviewImage", "SaveVideo", "SaveWEBM"), "images"),
    **dict.fromkeys(("SaveAnimatedWEBP", "SaveAnimatedPNG"), "images"),
    **dict.fromkeys(("SaveAudio", "SaveAudioMP3", "SaveAudioOpus", "PreviewAudio"), "audio"),
    "VHS_VideoCombine": "gifs",
    **dict.fromkeys(("PreviewAny", "ShowText|pysssss"), "text"),
    **dict.fromkeys(("SaveGLB", "Preview3D", "Preview3DAnimation"), "3d"),
    "SaveLatent": "latents",
}
_KEYS_BY_TYPE = {
    "image": "images",
    "video": "images",
    "audio": "audio",
    "latent": "latents",
    "text": "text",
}
_ANIMATED = frozenset({"SaveVideo", "SaveWEBM", "SaveAnimatedWEBP", "SaveAnimatedPNG"})

#: Milliseconds that a run may have taken.
_MAX_RUN = 1e12

#: How ComfyUI names temporary files.
_TEMPORARY = "ComfyUI_temp_"

#: The name of an exception, which ends at the first colon of the last line of a traceback.
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*")

#: What is said of an end that has no words of its own.
_UNEXPLAINED = {
    "expired": "The deployment gave up on the job (expired). It may have run or waited for too "
    "long.",
    "failed": "The deployment reports that the job failed, but not why. Its worker may have "
    "crashed or run out of memory.",
}


def status_of(job: Mapping[str, Any]) -> Status:
    """Return the status of a job; an unknown one counts as in flight until there is an end."""
    raw = str(job.get("status", "")).lower()
    if raw not in STATUSES and ms_of(job.get("completed_at")) is not None:
        return unlisted_end(outputs_of(job))
    return STATUSES.get(raw, "in_progress")


def snapshot_of(
    job: Mapping[str, Any],
    graph: Mapping[str, Any],
    texts: Mapping[str, str],
    *,
    cancelled: bool,
    settled: bool,
) -> Snapshot:
    """Return what `GET /api/v2/jobs/{id}` says.

    `graph` is what runs, `texts` are the contents of outputs that are texts, by their ids. With
    `cancelled` the proxy has asked for the end, which is then no failure. Raises `KeyError` if
    there is no `id`.
    """
    raw = str(job.get("status", "")).lower()
    status = status_of(job)
    if raw == "expired" and cancelled:
        status = "cancelled"
    start, end = ms_of(job.get("started_at")), ms_of(job.get("completed_at"))
    ran = field_of(job, "metrics", "execution_ms")
    if start is not None and end is None and isinstance(ran, int | float) and 0 <= ran < _MAX_RUN:
        end = start + int(ran)
    ended = status in ("completed", "failed", "cancelled")
    outputs = outputs_by_node(job, graph, texts) if ended else None
    return Snapshot(
        str(job["id"]),
        status,
        settled=settled and (raw in STATUSES or status != "failed"),
        create_time=ms_of(job.get("created_at")),
        start_time=start,
        end_time=end,
        outputs=outputs,
        outputs_count=None if outputs is None else len(outputs),
        execution_error=_error(job, raw, graph) if status == "failed" else None,
        unlisted=() if raw in STATUSES else ("status",),
    )


def outputs_of(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the outputs of a job that have an id, in their order."""
    found = objects_of(job.get("outputs"))
    return [item for item in found if text_of(item.get("id"))]


def is_text(output: Mapping[str, Any]) -> bool:
    """Return whether an output is a text, which clients get as such and not as a file."""
    return output.get("type") == "text"


class OutputNodes:
    """Which nodes of a graph the outputs of its run are of."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self._graph = graph

    def of(self, output: Mapping[str, Any]) -> str | None:
        """Return the node that an output is of.

        The worker may not name it. Then it is the only node of the graph from which no other takes
        anything, if there is only one; nothing is guessed between several.
        """
        node = output.get("node_id")
        return node if isinstance(node, str) and node else self._only_end

    @cached_property
    def _only_end(self) -> str | None:
        taken = {source for about in self._graph.values() for source in links_of(about)}
        ends = [id_ for id_ in self._graph if id_ not in taken]
        return ends[0] if len(ends) == 1 else None


def outputs_by_node(
    job: Mapping[str, Any], graph: Mapping[str, Any], texts: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return the outputs of a job by node, as ComfyUI has them, with the proxy's names of files.

    A text that is not among `texts` is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    nodes = OutputNodes(graph)
    for output in outputs_of(job):
        node = nodes.of(output)
        if node is None:
            continue
        class_type = class_of(graph.get(node))
        if is_text(output):
            if output["id"] in texts:
                found.setdefault(node, {}).setdefault("text", []).append(texts[output["id"]])
            continue
        key = _KEYS.get(class_type) or _KEYS_BY_TYPE.get(str(output.get("type")), "files")
        items = found.setdefault(node, {}).setdefault(key, [])
        items.append(_item(output))
        is_video = str(output.get("content_type", "")).startswith("video/")
        if key == "images" and (class_type in _ANIMATED or is_video):
            found[node]["animated"] = [True]
    return found


def _item(output: Mapping[str, Any]) -> dict[str, Any]:
    name = output.get("name")
    name = text_of(name)
    written = name.replace("\\", "/").rpartition("/")[2]
    called = cloud_name(output["id"], written, str(output.get("content_type") or ""))
    type_ = "temp" if written.startswith(_TEMPORARY) else "output"
    return {"filename": called, "type": type_, **({"display_name": written} if written else {})}


def _error(job: Mapping[str, Any], status: str, graph: Mapping[str, Any]) -> dict[str, Any]:
    """Return the failure as the detail of a job has it on v1."""
    error = object_of(job.get("error"))
    code, traceback = error.get("code"), text_of(error.get("traceback"))
    node = text_of(error.get("node_id")) or None
    message = error.get("message")
    return {
        "node_id": node,
        "node_type": error.get("class_type"),
        "exception_type": _exception(traceback) or (code if isinstance(code, str) else status),
        "exception_message": message or _UNEXPLAINED.get(status) or unlisted_message(status),
        "traceback": traceback.splitlines(keepends=True),
        "current_inputs": _literals(graph.get(node)) if node is not None else {},
        "current_outputs": [],
    }


def _exception(traceback: str) -> str | None:
    """Return the name before the first colon of the last line."""
    lines = [line for line in traceback.splitlines() if line.strip()]
    name = lines[-1].partition(":")[0] if lines else ""
    return name if _EXCEPTION.fullmatch(name) else None


def _literals(node: object) -> dict[str, list[Any]]:
    return {name: [value] for name, value in inputs_of(node).items() if not is_link(value)}
