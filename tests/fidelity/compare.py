"""What differs between a recorded answer and ours, in words that a table of deviations can match.

Every difference is one line, `where: recorded → ours`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import re
import zlib
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from fidelity.recording import Body, Event
from PIL import Image

#: Random by nature: what `PreviewImage` puts into the names of its files.
TEMPORARY = re.compile(r"ComfyUI_temp_[a-z]{5}_")
ADDRESS = re.compile(r"\b0x[0-9a-f]+\b")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SID = re.compile(r"[0-9a-f]{32}")

#: Headers whose values, or that themselves, are not ComfyUI's choice.
UNSET = frozenset({"date", "server"})
PRESENT_ONLY = frozenset({"etag", "last-modified", "content-length", "sec-websocket-accept"})

#: Values that differ from one machine, clock or library to the next; their types do not.
OF_THE_MACHINE = re.compile(
    r".*\.(timestamp|create_time|modified|created|size|ram_total|ram_free|vram_total|vram_free"
    r"|torch_vram_total|torch_vram_free|python_version|pytorch_version|comfyui_version"
    r"|required_frontend_version|installed_templates_version|required_templates_version|os"
    r"|embedded_python|argv(\[\])?|traceback(\[\])?|current_inputs\..*)"
    r"|.*\.tooltip|.*\.devices\[\]\.(name|type)"
)

#: What a ComfyUI lists by what is installed and in its folders: only keys and types are compared.
OF_THE_CATALOG = re.compile(
    r"/(api/)?(embeddings|models.*|experiment/models.*|object_info/(LoadImage|Checkpoint.*))"
)

#: Lists in the order of a Python set.
UNORDERED = re.compile(
    r".*\.(executed|current_outputs|dependent_outputs|errors)|.*prompt\[\]|.*queue_\w+\[\]\[\]"
)
PLACEHOLDER = re.compile("<(COMFYUI|VENV|BASE|PYTHON)>")

ERROR_KEYS = {"type", "message", "details", "extra_info"}


@dataclass
class Names:
    """What the recorded server and ours call by different names, learnt from the answers."""

    strings: dict[str, str] = field(default_factory=dict)
    offset: int | None = None
    exact: bool = False

    def ours(self, text: str) -> str:
        """A recorded text with our names in it."""
        for recorded in sorted(self.strings, key=len, reverse=True):
            text = text.replace(recorded, self.strings[recorded])
        return text

    def number(self, recorded: int) -> int:
        """Our number for a recorded job: the recorded server had counted others before."""
        offset = self.offset or 0
        return recorded - offset if recorded >= 0 else recorded + offset

    def learn(self, recorded: Any, actual: Any) -> None:
        """Take note of random names that stand at the same place."""
        if isinstance(recorded, dict) and isinstance(actual, dict):
            for key in recorded.keys() & actual.keys():
                self.learn(recorded[key], actual[key])
        elif isinstance(recorded, list) and isinstance(actual, list):
            for ours, other in zip(recorded, actual, strict=False):
                self.learn(ours, other)
        elif isinstance(recorded, str) and isinstance(actual, str):
            for pattern in (TEMPORARY, SID):
                one, other = pattern.match(recorded), pattern.match(actual)
                if one and other:
                    known = self.strings.setdefault(one[0], other[0])
                    if known != other[0]:
                        self.strings[recorded] = actual

    def learn_job(self, asked: Any, recorded: Any, actual: Any) -> None:
        """Take note of the id and the number that an answer to `POST /prompt` gave to a job."""
        if not (isinstance(asked, dict) and isinstance(recorded, dict) and "number" in recorded):
            return
        if not isinstance(actual, dict) or "number" not in actual:
            return
        ids = recorded["prompt_id"], actual["prompt_id"]
        if ids[0] != ids[1] and UUID.fullmatch(ids[0]) and UUID.fullmatch(ids[1]):
            self.strings[ids[0]] = ids[1]
        if "number" not in asked and not asked.get("front") and self.offset is None:
            self.offset = recorded["number"] - actual["number"]


@dataclass(frozen=True)
class Answer:
    """Our answer to a request."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def parsed(self) -> Any:
        return json.loads(self.body)


def response(event: Event, answer: Answer, names: Names) -> list[str]:
    """The differences between the recorded answer of an event and ours."""
    recorded = event.response
    status = recorded["status"]
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and is_refusal(answer):
        return ["500 → 400 in the error form"]
    found = []
    if status != answer.status:
        found.append(f"status: {status} → {answer.status}")
    elif answer.reason not in _reasons(recorded["reason"]):
        found.append(f"reason: {recorded['reason']} → {answer.reason}")
    found += headers(recorded["headers"], answer.headers, names)
    return found + body(event, answer, names)


def _reasons(recorded: str) -> tuple[str, ...]:
    """The reason phrases that mean the recorded one: 413 has another since Python 3.13."""
    renamed = ("Request Entity Too Large", "Content Too Large")
    return renamed if recorded in renamed else (recorded,)


def is_refusal(answer: Answer) -> bool:
    """Whether an answer is a 400 in the form of ComfyUI's prompt errors, or in that of a pack."""
    if answer.status != HTTPStatus.BAD_REQUEST:
        return False
    try:
        error = answer.parsed["error"]
    except (ValueError, KeyError, TypeError):
        return False
    if isinstance(error, str):
        return bool(error) and answer.parsed.keys() == {"error"}
    return error.keys() == ERROR_KEYS and bool(error["type"]) and bool(error["message"])


def headers(recorded: list[list[str]], actual: list[tuple[str, str]], names: Names) -> list[str]:
    """Names, order of repeated ones, and values of headers."""
    found = []
    one, other = _grouped(recorded), _grouped([list(pair) for pair in actual])
    for name in sorted(one.keys() | other.keys()):
        if name in UNSET:
            continue
        values = [names.ours(value) for value in one.get(name, [])], other.get(name, [])
        if name in PRESENT_ONLY:
            values = [name] * len(values[0]), [name] * len(values[1])
        if values[0] != values[1]:
            found.append(f"header {name}: {', '.join(values[0])} → {', '.join(values[1])}")
    return found


def body(event: Event, answer: Answer, names: Names) -> list[str]:
    """The differences of bodies: JSON value by value, pictures by their nature, bytes exactly."""
    recorded = event.response_body
    answer = replace(answer, body=_unpacked(answer))
    if recorded.kind == "empty" or not answer.body:
        whole = recorded.fields["len"], len(answer.body)
        return [] if whole == (0, 0) else [f"body: {whole[0]} bytes → {whole[1]} bytes"]
    if _is_json(event.response["headers"]):
        return _json_body(event, recorded, answer, names)
    data = recorded.data
    if data is None:
        return _beginning(recorded, answer.body)
    if recorded.kind == "text":
        data = names.ours(data.decode()).encode()
    if data == answer.body:
        return []
    pictures = picture(data, names), picture(answer.body, names)
    if pictures[0] is not None and pictures[0] == pictures[1]:
        return []
    if recorded.kind == "text":
        return [f"text: {_shown(data.decode())} → {_shown(answer.body.decode(errors='replace'))}"]
    return [f"content: {nature(data)} → {nature(answer.body)}"]


def picture(data: bytes, names: Names | None = None) -> tuple[Any, ...] | None:
    """What a picture is, whatever encoder made it: format, size, mode, text chunks.

    Where they are `exact`, its pixels too: no painter of the simulator's has made it.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            texts = sorted(key for key, value in opened.info.items() if isinstance(value, str))
            pixels = opened.tobytes() if names is not None and names.exact else b""
            return opened.format, opened.size, opened.mode, tuple(texts), pixels
    except OSError:
        return None


def differences(recorded: Any, actual: Any, names: Names, where: str = "") -> list[str]:
    """Keys, types and values of JSON, in depth."""
    if isinstance(recorded, dict) and isinstance(actual, dict):
        return _objects(recorded, actual, names, where)
    if isinstance(recorded, list) and isinstance(actual, list):
        return _lists(recorded, actual, names, where)
    if type(recorded) is not type(actual):
        return [f"{where}: {_kind(recorded)} → {_kind(actual)}"]
    if isinstance(recorded, str) and PLACEHOLDER.search(recorded):
        return []
    if OF_THE_MACHINE.fullmatch(where) or _same(recorded, actual, names):
        return []
    return [f"{where}: {_shown(recorded)} → {_shown(actual)}"]


def shape(value: Any) -> Any:
    """Keys and types alone; of a list the shapes that occur in it."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        shapes: list[Any] = []
        for item in value:
            if (one := shape(item)) not in shapes:
                shapes.append(one)
        return shapes
    return _kind(value)


def _unpacked(answer: Answer) -> bytes:
    """The body before it was packed; bodies were recorded so."""
    codings = {name.lower(): value for name, value in answer.headers}
    match codings.get("content-encoding"):
        case "gzip":
            return gzip.decompress(answer.body) if answer.body else b""
        case "deflate":
            return zlib.decompress(answer.body) if answer.body else b""
        case _:
            return answer.body


def _objects(
    recorded: dict[str, Any], actual: dict[str, Any], names: Names, where: str
) -> list[str]:
    named = {names.ours(key): value for key, value in recorded.items()}
    found = [f"{where}: + {key}" for key in actual if key not in named]
    found += [f"{where}: - {key}" for key in named if key not in actual]
    for key in named:
        if key in actual:
            found += differences(named[key], actual[key], names, f"{where}.{key}")
    return found


def _lists(recorded: list[Any], actual: list[Any], names: Names, where: str) -> list[str]:
    if OF_THE_MACHINE.fullmatch(f"{where}[]"):
        recorded, actual = shape(recorded), shape(actual)
    if UNORDERED.fullmatch(where) and not any(isinstance(item, list) for item in recorded):
        recorded, actual = sorted(recorded, key=json.dumps), sorted(actual, key=json.dumps)
    if len(recorded) != len(actual):
        return [f"{where}: {len(recorded)} items → {len(actual)} items"]
    found = []
    for ours, other in zip(recorded, actual, strict=True):
        found += differences(ours, other, names, f"{where}[]")
    return found


def _same(recorded: Any, actual: Any, names: Names) -> bool:
    if isinstance(recorded, str):
        texts = ADDRESS.sub("0x", names.ours(recorded)), ADDRESS.sub("0x", str(actual))
        lines = [text.splitlines() for text in texts]
        return sorted(lines[0]) == sorted(lines[1])
    if isinstance(recorded, float) and math.isnan(recorded):
        return math.isnan(actual)
    return bool(recorded == actual)


def _json_body(event: Event, recorded: Body, answer: Answer, names: Names) -> list[str]:
    try:
        actual = answer.parsed
    except ValueError:
        return [f"body: JSON → {_shown(answer.body.decode(errors='replace'))}"]
    found = []
    if answer.body != json.dumps(actual).encode():
        found.append("body: not written as json.dumps does")
    try:
        value = recorded.parsed
    except ValueError:
        return found + _beginning(recorded, answer.body)
    asked = None
    path = event.fields["request"]["path"].partition("?")[0]
    if path.endswith("/prompt"):
        asked = event.request_body.parsed if event.request_body.kind == "json" else {}
        names.learn_job(asked, value, actual)
    names.learn(value, actual)
    value = _numbered(value, names)
    if OF_THE_CATALOG.fullmatch(path):
        value, actual = shape(value), shape(actual)
    found += differences(value, actual, names, "body")
    if isinstance(value, dict) and isinstance(actual, dict):
        order = [names.ours(key) for key in value]
        if order != list(actual) and set(order) == set(actual):
            found.append("body: keys in another order")
    return found


def _numbered(value: Any, names: Names) -> Any:
    """A recorded value with our numbers where jobs have theirs."""
    if isinstance(value, dict):
        changed = {key: _numbered(item, names) for key, item in value.items()}
        number = changed.get("number")
        if type(number) is int and "prompt_id" in changed:
            changed["number"] = names.number(number)
        return changed
    if isinstance(value, list):
        job = len(value) == 5 and type(value[0]) is int and isinstance(value[2], dict)
        changed_items = [_numbered(item, names) for item in value]
        if job:
            changed_items[0] = names.number(value[0])
        return changed_items
    return value


def _beginning(recorded: Body, actual: bytes) -> list[str]:
    """Compare what of a body was recorded: a few bytes."""
    start = bytes.fromhex(recorded.fields["first64"])[:1]
    if actual.startswith(start):
        return []
    return [f"content: {nature(start)} → {nature(actual)}"]


def _grouped(pairs: list[list[str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name.lower(), []).append(value)
    return grouped


def _is_json(recorded: list[list[str]]) -> bool:
    return any(
        name.lower() == "content-type" and value.startswith("application/json; charset")
        for name, value in recorded
    )


def nature(data: bytes) -> str:
    """What some bytes are, in words."""
    about = picture(data)
    return str(
        (about and (*about[:-1], hashlib.sha256(data).hexdigest()[:8]))
        or f"{len(data)} bytes {data[:8]!r}"
    )


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 120 else f"{text[:120]}…"
