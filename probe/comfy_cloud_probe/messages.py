"""What the messages of jobs say about the open points."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence

from PIL import Image

from comfy_cloud_probe.points import Findings
from comfy_cloud_probe.wire import Frame
from proxy.translate.reading import field_of

_PLAIN_PREVIEW, _TEXT, _METADATA_PREVIEW = 1, 3, 4

#: The fields of `progress_state` that only ComfyUI's own have.
_FULL = {"value", "max", "state"}


def of_job(findings: Findings, job: str, frames: Sequence[Frame], silent: Sequence[Frame]) -> None:
    """Observe a job that succeeded, on a socket with flags and on one without."""
    see = findings.see
    ours = [frame for frame in frames if frame.job == job]
    types = [frame.type for frame in ours]
    whole = "execution_start" in types and "execution_success" in types
    see("job_events", "execution_start to execution_success" if whole else "incomplete")
    see("cached_when_empty", "sent" if "execution_cached" in types else "not sent")
    _timestamps(findings, ours)
    _progress_state(findings, ours)
    _order(findings, ours, frames)
    see("notifications", "sent" if any(f.type == "notification" for f in frames) else "not sent")
    foreign = any(frame.type.startswith(("asset_", "agent_")) for frame in frames)
    see("foreign_messages", "sent" if foreign else "not sent")
    _executed(findings, ours)
    _previews(findings, job, frames, silent)
    _texts(findings, job, frames, silent)


def of_repetition(findings: Findings, job: str, frames: Sequence[Frame]) -> None:
    """Observe whether the nodes of the same graph ran again."""
    cached = [f for f in frames if f.type == "execution_cached" and f.job == job]
    nodes = cached[0].data.get("nodes") if cached else []
    findings.see("cache", "reused" if nodes else "run again")


def of_failure(findings: Findings, job: str, frames: Sequence[Frame]) -> None:
    """Observe a job that failed in a node with a Python exception."""
    for frame in frames:
        if frame.type == "execution_error" and frame.job == job:
            findings.see("error_node", "named" if frame.data.get("node_id") else "not named")
            kind = str(frame.data.get("exception_type"))
            python = bool(re.search(r"(PatternError|\berror|re\.error)$", kind))
            findings.see("exception_type", "python" if python else "cloud", kind)


def of_cancel(findings: Findings, id_: str, job: str, frames: Sequence[Frame]) -> None:
    """Observe a job that was cancelled."""
    types = [frame.type for frame in frames if frame.job == job]
    announced = "execution_interrupted" in types
    findings.see(id_, "execution_interrupted" if announced else "none")


def _timestamps(findings: Findings, ours: Sequence[Frame]) -> None:
    started = [frame.data for frame in ours if frame.type.startswith("execution_")]
    at = next((data["timestamp"] for data in started if "timestamp" in data), None)
    if at is None:
        findings.see("timestamps", "absent")
    elif isinstance(at, int | float):
        findings.see("timestamps", "milliseconds" if at > 1e11 else "seconds")
    else:
        findings.see("timestamps", "no number")


def _progress_state(findings: Findings, ours: Sequence[Frame]) -> None:
    states = [frame.data.get("nodes") for frame in ours if frame.type == "progress_state"]
    nodes = [node for state in states if isinstance(state, dict) for node in state.values()]
    full = any(isinstance(node, dict) and node.keys() >= _FULL for node in nodes)
    findings.see("progress_state", "full" if full else "documented" if nodes else "not sent")


def _order(findings: Findings, ours: Sequence[Frame], frames: Sequence[Frame]) -> None:
    end = next((frame for frame in ours if frame.type == "execution_success"), None)
    if end is None:
        return
    place = {id(frame): index for index, frame in enumerate(frames)}
    last_node = [f for f in ours if f.type == "executing" and f.data.get("node") is not None]
    nulls = [f for f in ours if f.type == "executing" and f.data.get("node") is None]
    after = place[id(last_node[-1])] if last_node else -1
    statuses = [f for f in frames if f.type == "status" and place[id(f)] > after]
    for id_, found in (("executing_null", nulls), ("final_status", statuses)):
        if not found:
            findings.see(id_, "not sent")
        else:
            is_after = place[id(found[-1])] > place[id(end)]
            findings.see(id_, "after" if is_after else "before")


def _executed(findings: Findings, ours: Sequence[Frame]) -> None:
    for frame in ours:
        output = frame.data.get("output") if frame.type == "executed" else None
        images = field_of(output, "images")
        if images and isinstance(images[0], dict) and images[0].get("type") == "output":
            name = str(images[0].get("filename"))
            hashed = re.match(r"(blake3:)?[0-9a-fA-F]{32,}", name)
            findings.see("executed_names", "hash" if hashed else "display")
            has_name = "display_name" in images[0]
            findings.see("executed_display_name", "present" if has_name else "absent")
            return


def _previews(
    findings: Findings, job: str, frames: Sequence[Frame], silent: Sequence[Frame]
) -> None:
    announced = _pictures(frames, job)
    if not announced:
        findings.see("preview", "none")
        return
    kind, image = announced[0]
    findings.see("preview", kind)
    try:
        with Image.open(io.BytesIO(image)) as picture:
            findings.see("preview_format", str(picture.format).lower())
    except OSError:
        findings.see("preview_format", "no picture")
    others = _pictures(silent, job)
    same = bool(others) and others[0][0] == kind
    findings.see("preview_flags", "the same" if same else others[0][0] if others else "none")


def _pictures(frames: Sequence[Frame], job: str) -> list[tuple[str, bytes]]:
    """Return previews of the job; those without its id are counted too, for nobody else is
    probing."""
    found = []
    for data in _binary(frames):
        kind, rest = struct.unpack(">I", data[:4])[0], data[4:]
        if kind == _PLAIN_PREVIEW:
            found.append(("type 1", rest[4:]))
        elif kind == _METADATA_PREVIEW and len(rest) >= 4:
            length = struct.unpack(">I", rest[:4])[0]
            about = rest[4 : 4 + length]
            if job.encode() in about:
                typed = b'"image_type"' in about
                found.append(("type 4 with image_type" if typed else "type 4", rest[4 + length :]))
    return found


def _texts(findings: Findings, job: str, frames: Sequence[Frame], silent: Sequence[Frame]) -> None:
    announced, unannounced = (_names_job(frames, job) for frames in (frames, silent))
    if announced:
        if_announced = " if announced" if unannounced is False else ""
        findings.see("text_frames", f"with job id{if_announced}")
    else:
        findings.see("text_frames", "none" if announced is None else "without job id")


def _names_job(frames: Sequence[Frame], job: str) -> bool | None:
    """Return whether progress texts name their job; `None` without any."""
    texts = [data for data in _binary(frames) if struct.unpack(">I", data[:4])[0] == _TEXT]
    return any(job.encode() in data for data in texts) if texts else None


def _binary(frames: Sequence[Frame]) -> list[bytes]:
    return [
        f.data
        for f in frames
        if f.type == "binary" and isinstance(f.data, bytes) and len(f.data) >= 8
    ]
