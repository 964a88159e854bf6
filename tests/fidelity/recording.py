"""Recorded traffic of a real ComfyUI, read from `tests/recordings`."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "recordings"

#: Where the recorded server listened; `<HOST>` stands for it in most places.
RECORDED_PORT = ":18188"


@dataclass(frozen=True)
class Body:
    """A recorded body. What is long or of the machine was recorded by its first bytes only."""

    kind: str
    fields: dict[str, Any]

    @property
    def data(self) -> bytes | None:
        """The bytes, or None if they were not recorded."""
        match self.fields:
            case {"b64": str(packed)}:
                return base64.b64decode(packed)
            case {"raw": str(text)} | {"text": str(text)}:
                return text.encode()
            case {"json": value}:
                return json.dumps(value).encode()
            case {"first64": str(start), "len": int(length)} if length * 2 == len(start):
                return bytes.fromhex(start)
        return b"" if self.kind == "empty" else None

    @cached_property
    def parsed(self) -> Any:
        """The value of JSON, NaN and Infinity included. Raises `ValueError` for other bodies."""
        if "json" in self.fields:
            return self.fields["json"]
        data = self.data
        if data is None:
            raise ValueError("the body was not recorded whole")
        return json.loads(data)


@dataclass(frozen=True)
class Event:
    """One event; `fields` as in the file."""

    position: int
    kind: str
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """How the event is called in differences: its request and what the recorder noted."""
        if self.kind == "http":
            label = self.fields.get("label")
            called = f"{self.fields['request']['method']} {self.fields['request']['path']}"
            return f"{called} [{label}]" if label else called
        if self.kind == "raw":
            return f"raw [{self.fields['label']}]"
        return f"{self.kind} {self.fields.get('ws', '')}".strip()

    @property
    def request_body(self) -> Body:
        return _body(self.fields["request"]["body"])

    @property
    def response(self) -> dict[str, Any]:
        return dict(self.fields["response"])

    @property
    def response_body(self) -> Body:
        return _body(self.response["body"])

    @property
    def answered(self) -> bool:
        """Whether the recorded server answered; it had died otherwise."""
        return "error" not in self.response


@dataclass(frozen=True)
class Recording:
    """One scenario."""

    scenario: str
    options: str
    events: tuple[Event, ...]

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds."""
        return [event for event in self.events if event.kind in kinds]

    def received(self, socket: str, before: int | None = None) -> list[Any]:
        """What a websocket received up to a position: parsed JSON, bytes, or `Opaque`."""
        return [
            message(event)
            for event in self.of("ws_recv")
            if event.fields["ws"] == socket and (before is None or event.position < before)
        ]

    @property
    def exact(self) -> bool:
        """Whether its pictures are made of those that were sent alone, so that pixels count."""
        return self.scenario.startswith(("etn_", "save_image_websocket"))

    @property
    def server_died(self) -> bool:
        """Whether the recorded server did not live to answer all requests."""
        return not all(event.answered for event in self.of("http"))


@dataclass(frozen=True)
class Opaque:
    """A message of which only a part was recorded."""

    start: str

    @property
    def type(self) -> str:
        """The `type` of a JSON message, read from its beginning."""
        return self.start.partition('"type": "')[2].partition('"')[0]


def message(event: Event) -> Any:
    """The content of a `ws_recv`."""
    fields = event.fields
    if "json" in fields:
        return fields["json"]
    if fields["type"] == "binary":
        return base64.b64decode(fields["b64"]) if "b64" in fields else Opaque("")
    if "raw" in fields:
        try:
            return json.loads(fields["raw"])
        except ValueError:
            return Opaque(fields["raw"])
    if fields["type"] in ("ping", "pong"):
        return {"type": fields["type"], "data": base64.b64decode(fields["b64"]).hex()}
    return Opaque(fields.get("first200", ""))


def load(scenario: str) -> Recording:
    """The recording of a scenario, without the cleaning up before it."""
    found = json.loads((FOLDER / f"{scenario}.json").read_text())
    wanted = [event for event in found["events"] if not event.get("setup")]
    events = [
        Event(position, event["kind"], event) for position, event in enumerate(_apart(wanted))
    ]
    return Recording(found["scenario"], found["server"]["options"], tuple(events))


def _apart(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events, with a number at the name of each websocket but the first of that name."""
    opened: Counter[str] = Counter()
    for event in events:
        name = event.get("ws")
        if name is not None:
            opened[name] += event["kind"] == "ws_open"
            event = {**event, "ws": name if opened[name] < 2 else f"{name} {opened[name]}"}
        yield event


def _body(fields: dict[str, Any]) -> Body:
    return Body(fields["kind"], fields)
