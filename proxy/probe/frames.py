"""What the messages of the event socket say about the open points."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence

from PIL import Image

from proxy.probe.points import Findings
from proxy.probe.wire import Frame

_PLAIN_PREVIEW, _TEXT, _METADATA_PREVIEW = 1, 3, 4

#: The fields of `progress_state` that only ComfyUI's own have.
_FULL = {"value", "max", "state"}


def of_job(findings: Findings, job: str, heard: Sequence[Frame], silent: Sequence[Frame]) -> None:
    """A job that succeeded, as a socket with flags and one without have heard it."""
    see = findings.see
    ours = [frame for frame in heard if frame.job == job]
    types = [frame.type for frame in ours]
    whole = "execution_start" in types and "execution_success" in types
    see("job_events", "execution_start to execution_success" if whole else "incomplete")
    see("cached_when_empty", "sent" if "execution_cached" in types else "not sent")
    _timestamps(findings, ours)
    _progress_state(findings, ours)
    _order(findings, ours, heard)
    see("notifications", "sent" if any(f.type == "notification" for f in heard) else "not sent")
    foreign = any(frame.type.startswith(("asset_", "agent_")) for frame in heard)
    see("foreign_messages", "sent" if foreign else "not sent")
    _executed(findings, ours)
    _previews(findings, job, heard, silent)
    _texts(findings, job, heard, silent)


def of_repetition(findings: Findings, job: str, heard: Sequence[Frame]) -> None:
    """The same graph once more: whether its nodes ran again."""
    cached = [f for f in heard if f.type == "execution_cached" and f.job == job]
    nodes = cached[0].data.get("nodes") if cached else []
    findings.see("cache", "reused" if nodes else "run again")


def of_failure(findings: Findings, job: str, heard: Sequence[Frame]) -> None:
    """A job that failed in a node with a Python exception."""
    for frame in heard:
        if frame.type == "execution_error" and frame.job == job:
            findings.see("error_node", "named" if frame.data.get("node_id") else "not named")
            kind = str(frame.data.get("exception_type"))
            python = bool(re.search(r"(PatternError|\berror|re\.error)$", kind))
            findings.see("exception_type", "python" if python else "cloud", kind)


def of_cancel(findings: Findings, id_: str, job: str, heard: Sequence[Frame]) -> None:
    """A job that was cancelled."""
    types = [frame.type for frame in heard if frame.job == job]
    told = "execution_interrupted" in types
    findings.see(id_, "execution_interrupted" if told else "none")


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
    nodes = [node for one in states if isinstance(one, dict) for node in one.values()]
    full = any(isinstance(node, dict) and node.keys() >= _FULL for node in nodes)
    findings.see("progress_state", "full" if full else "documented" if nodes else "not sent")


def _order(findings: Findings, ours: Sequence[Frame], heard: Sequence[Frame]) -> None:
    end = next((frame for frame in ours if frame.type == "execution_success"), None)
    if end is None:
        return
    place = {id(frame): index for index, frame in enumerate(heard)}
    last_node = [f for f in ours if f.type == "executing" and f.data.get("node") is not None]
    nulls = [f for f in ours if f.type == "executing" and f.data.get("node") is None]
    after = place[id(last_node[-1])] if last_node else -1
    statuses = [f for f in heard if f.type == "status" and place[id(f)] > after]
    for id_, found in (("executing_null", nulls), ("final_status", statuses)):
        if not found:
            findings.see(id_, "not sent")
        else:
            behind = place[id(found[-1])] > place[id(end)]
            findings.see(id_, "after" if behind else "before")


def _executed(findings: Findings, ours: Sequence[Frame]) -> None:
    for frame in ours:
        output = frame.data.get("output") if frame.type == "executed" else None
        images = output.get("images") if isinstance(output, dict) else None
        if images and isinstance(images[0], dict) and images[0].get("type") == "output":
            name = str(images[0].get("filename"))
            hashed = re.match(r"(blake3:)?[0-9a-fA-F]{32,}", name)
            findings.see("executed_names", "hash" if hashed else "display")
            told = "display_name" in images[0]
            findings.see("executed_display_name", "present" if told else "absent")
            return


def _previews(
    findings: Findings, job: str, heard: Sequence[Frame], silent: Sequence[Frame]
) -> None:
    announced = _pictures(heard, job)
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


def _pictures(heard: Sequence[Frame], job: str) -> list[tuple[str, bytes]]:
    """Previews of the job; those without its id are counted too, for nobody else is probing."""
    found = []
    for data in _binary(heard):
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


def _texts(findings: Findings, job: str, heard: Sequence[Frame], silent: Sequence[Frame]) -> None:
    forms = [_long_text(frames, job) for frames in (heard, silent)]
    match forms:
        case [None, _]:
            findings.see("text_frames", "none")
        case [True, False]:
            findings.see("text_frames", "with job id if announced")
        case [True, _]:
            findings.see("text_frames", "with job id")
        case _:
            findings.see("text_frames", "without job id")


def _long_text(heard: Sequence[Frame], job: str) -> bool | None:
    texts = [data for data in _binary(heard) if struct.unpack(">I", data[:4])[0] == _TEXT]
    return any(job.encode() in data for data in texts) if texts else None


def _binary(heard: Sequence[Frame]) -> list[bytes]:
    return [
        f.data
        for f in heard
        if f.type == "binary" and isinstance(f.data, bytes) and len(f.data) >= 8
    ]
