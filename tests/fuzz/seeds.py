"""What targets begin with: what clients and servers said in the recordings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from graphs import plain, sampled

RECORDINGS = Path(__file__).parents[1] / "recordings"

#: Inputs that are larger than this make a fuzzer slow and teach it nothing.
_MAX_SEED = 8 * 1024


@cache
def _events() -> tuple[dict[str, Any], ...]:
    files = sorted(RECORDINGS.glob("*.json"))
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    return tuple(event for document in documents for event in document.get("events", ()))


def _different(values: Iterator[Any]) -> Iterator[Any]:
    """Yield values that differ in more than their numbers and their texts."""
    known = set()
    for value in values:
        form = _form(value)
        if form not in known and len(json.dumps(value)) <= _MAX_SEED:
            known.add(form)
            yield value


def _form(value: Any) -> str:
    match value:
        case dict():
            return "{" + ",".join(f"{key}:{_form(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(sorted({_form(item) for item in value})) + "]"
    return type(value).__name__


def _requests(*ends: str) -> Iterator[dict[str, Any]]:
    for event in _events():
        if event["kind"] == "http" and event["request"]["path"].partition("?")[0].endswith(ends):
            yield event["request"]


def prompts() -> Iterator[Any]:
    """Yield bodies of `POST /prompt`, each form once."""
    bodies = (request["body"] for request in _requests("/prompt"))
    yield from _different(body["json"] for body in bodies if "json" in body)
    yield {"prompt": plain()}
    yield {"prompt": sampled(), "client_id": "a", "extra_data": {"extra_pnginfo": {}}}


def graphs() -> Iterator[dict[str, Any]]:
    """Yield graphs in API format."""
    for body in prompts():
        if isinstance(body, dict) and isinstance(body.get("prompt"), dict):
            yield body["prompt"]


def drawing() -> Any:
    """Return a file of the editor."""
    path = RECORDINGS.parent / "browser" / "workflow.json"
    return json.loads(path.read_text(encoding="utf-8"))


def events() -> Iterator[Any]:
    """Yield events of the websocket, each form once."""
    yield from _different(
        event["json"] for event in _events() if event["kind"] == "ws_recv" and "json" in event
    )


def frames() -> Iterator[bytes]:
    """Yield short binary frames of the websocket."""
    known: set[int] = set()
    for event in _events():
        if event["kind"] == "ws_recv" and "b64" in event:
            data = base64.b64decode(event["b64"])
            if len(data) not in known and len(data) <= _MAX_SEED:
                known.add(len(data))
                yield data


def entries() -> Iterator[Any]:
    """Yield entries of the history, each form once."""
    answers = (event.get("response", {}).get("body", {}) for event in _events())
    found = (body["json"] for body in answers if isinstance(body.get("json"), dict))
    yield from _different(
        entry
        for answer in found
        for entry in answer.values()
        if isinstance(entry, dict) and "outputs" in entry
    )


def queries() -> Iterator[str]:
    """Yield queries of requests."""
    paths = (event["request"]["path"] for event in _events() if event["kind"] == "http")
    yield from dict.fromkeys(path.partition("?")[2] for path in paths if "?" in path)


def paths() -> Iterator[str]:
    """Yield paths of requests, with their queries."""
    yield from dict.fromkeys(
        event["request"]["path"] for event in _events() if event["kind"] == "http"
    )


def uploads() -> Iterator[tuple[str, bytes]]:
    """Yield content types and bodies of uploads."""
    for request in _requests("/upload/image", "/upload/mask"):
        body = request["body"]
        type_ = dict(request["headers"]).get("Content-Type", "")
        if "b64" in body and body["len"] <= _MAX_SEED:
            yield type_, base64.b64decode(body["b64"])
        elif isinstance(body.get("text"), str):
            yield type_, body["text"].encode()
