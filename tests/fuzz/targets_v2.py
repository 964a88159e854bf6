"""Targets: what deployments say over API v2."""

from __future__ import annotations

from typing import Any

from fuzz.harness import of_bytes, of_json
from graphs import plain

from proxy.cloud.v2.sse import FrameParser, OversizedFrameError
from proxy.engine.tracker import SnapshotReceived, Tracker
from proxy.translate import codec, errors
from proxy.translate.v2.jobs import snapshot_of
from proxy.translate.v2.runs import RunObserver
from proxy.translate.v2.submissions import refusal_of

_AT = "2026-11-30T20:32:58.957+00:00"
_OUTPUT = {"id": "o", "node_id": "2", "name": "a_00001_.png", "type": "image"}
_TEXT = {**_OUTPUT, "id": "t", "type": "text", "content_type": "text/plain"}
_JOB = {
    "id": "a",
    "status": "succeeded",
    "created_at": _AT,
    "started_at": _AT,
    "completed_at": _AT,
    "metrics": {"execution_ms": 1500},
    "progress": {"current_node": "2", "step": 1, "steps": 4},
    "outputs": [_OUTPUT, _TEXT],
}
_FAILED = {
    **_JOB,
    "status": "failed",
    "error": {"code": "execution_failed", "message": "no", "details": {"node_id": "1"}},
}
_FRAMES = [
    ["status", {"status": "running"}],
    ["progress", {"current_node": "1", "step": 1, "steps": 4}],
    ["preview", {"node_id": "1", "data_base64": "/9j/", "content_type": "image/jpeg"}],
    ["output", _OUTPUT],
    ["progress", {"current_node": "2"}],
]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@of_json(KeyError, parse=codec.loads_text, seeds=lambda: [_JOB, _FAILED])
def deployment_job(value: Any) -> None:
    """End a job by a reading of it."""
    found = snapshot_of(_object(value), plain(), {"t": "text"}, cancelled=False, settled=True)
    Tracker("local-id", plain(), ["2"]).receive(SnapshotReceived(found), 6_000)
    RunObserver("cloud-id", plain()).reading(_object(value), {"t": "text"})


@of_json(parse=codec.loads_text, seeds=lambda: [_FRAMES])
def deployment_frames(value: Any) -> None:
    """Follow a job by the frames of its stream."""
    run = RunObserver("cloud-id", plain())
    for frame in value if isinstance(value, list) else []:
        match frame:
            case [str(type_), dict(data)]:
                run.frame(type_, data)
                if run.wants_reading:
                    run.reading(None)


@of_json(
    parse=codec.loads_text,
    seeds=lambda: [
        {"error": {"code": "invalid_workflow", "message": "a", "details": {"node_errors": {}}}},
        {"error": {"code": "rate_limited"}},
    ],
)
def deployment_refusal(value: Any) -> None:
    """Make a client's error of a deployment's, with a status that depends on it."""
    status = (400, 402, 429, 503)[len(str(value)) % 4]
    errors.from_cloud(status, refusal_of(status, value)).body()


@of_bytes(
    OversizedFrameError,
    seeds=lambda: [b'event: status\ndata: {"a": 1}\n\n: ping\n\ndata: a\r\ndata: b\r\n\r\n'],
)
def event_stream(data: bytes) -> None:
    """Read server-sent events, in pieces."""
    parser = FrameParser()
    for place in range(0, len(data), 1000):
        list(parser.feed(data[place : place + 1000]))
