"""What differs between what a recorded websocket heard and what ours heard."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from fidelity.compare import Names, differences, nature, picture
from fidelity.recording import Opaque

#: Binary events: ComfyUI's `PREVIEW_IMAGE`, `TEXT` and `PREVIEW_IMAGE_WITH_METADATA`.
PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4

ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class Heard:
    """A message as it is compared: JSON by its type and data, binary by what its bytes say."""

    type: str
    data: Any
    image: bytes = b""

    def key(self, names: Names | None = None) -> tuple[str, ...]:
        """What makes it the same message in another run: its type, its job and its node."""
        name = names.ours if names else str
        if not isinstance(self.data, dict):
            return (self.type,)
        nodes = self.data.get("nodes")
        about = [
            str(self.data.get("prompt_id", "")),
            str(self.data.get("node", self.data.get("node_id", ""))),
            str(self.data.get("value", "")) if self.type == "progress" else "",
        ]
        if isinstance(nodes, dict):
            about += [f"{node} {state['state']} {state['value']}" for node, state in nodes.items()]
        return (self.type, *(name(item) for item in about))

    @property
    def remaining(self) -> int | None:
        """How many jobs a `status` says there are."""
        if self.type != "status":
            return None
        return int(self.data["status"]["exec_info"]["queue_remaining"])


def received(message: Any) -> Heard:
    """A message off the wire or of a recording."""
    if isinstance(message, Opaque):
        return Heard(message.type, message)
    if isinstance(message, bytes):
        return _binary(message)
    return Heard(message["type"], message.get("data"))


def numbers(messages: list[Heard]) -> list[int]:
    """How many jobs there were, in turn."""
    sent = [message.remaining for message in messages if message.remaining is not None]
    return sent[:1] + [after for before, after in pairwise(sent) if before != after]


def missing(recorded: list[Heard], actual: list[Heard], names: Names) -> Counter[tuple[str, ...]]:
    """What was heard in the recording and not by us, yet; empty when all has come."""
    wanted = Counter(
        message.key(names)
        for message in recorded
        if message.type != "status" and not isinstance(message.data, Opaque)
    )
    wanted -= Counter(message.key() for message in actual)
    rest = iter(numbers(actual))
    for number in numbers(recorded):
        if number not in rest:
            wanted["status", str(number)] += 1
            break
    return wanted


def compare(recorded: list[Heard], actual: list[Heard], names: Names) -> list[str]:
    """The differences: which messages in which order, then each in depth.

    A `status` may fall between other messages anywhere but around the end of a run: which of two
    threads of a ComfyUI was quicker is chance. When the runs of several jobs overlap that is one
    difference, and each is compared by itself.
    """
    found = []
    if numbers(recorded) != numbers(actual):
        found.append(f"status: {numbers(recorded)} → {numbers(actual)}")
    found += _depth(_opening(recorded), _opening(actual), names)
    runs = _by_job(recorded, names.ours), _by_job(actual, str)
    turns = _turns(actual, str)
    if len(set(turns)) < len(turns):
        found.append("runs overlap")
    elif [job for job in _turns(recorded, names.ours) if job in turns] != [
        job for job in turns if job in runs[0]
    ]:
        found.append("runs in another order")
    for job in runs[0] | runs[1]:
        found += _run(runs[0].get(job, []), runs[1].get(job, []), names)
    return found


def _run(recorded: list[Heard], actual: list[Heard], names: Names) -> list[str]:
    found = []
    if _ends(recorded) != _ends(actual):
        found.append(f"ends: {_ends(recorded)} → {_ends(actual)}")
    one = [message for message in recorded if message.type != "status"]
    other = [message for message in actual if message.type != "status"]
    if [message.key(names) for message in one] != [message.key() for message in other]:
        one, other = folded(one), folded(other)
    types = [message.type for message in one], [message.type for message in other]
    if types[0] != types[1]:
        return [*found, *_order(types[0], types[1])]
    return found + _depth(one, other, names)


def _depth(recorded: list[Heard], actual: list[Heard], names: Names) -> list[str]:
    found = []
    for ours, other in zip(recorded, actual, strict=True):
        if not isinstance(ours.data, Opaque):
            found += differences(ours.data, other.data, names, ours.type)
        if names.exact and picture(ours.image, names) != picture(other.image, names):
            found.append(f"{ours.type}: {nature(ours.image)} → {nature(other.image)}")
    return found


def _by_job(messages: list[Heard], name: Callable[[str], str]) -> dict[str, list[Heard]]:
    """The messages of each job, with the `status` ones that came at its end."""
    found: dict[str, list[Heard]] = {}
    ending: set[str] = set()
    for message, job in _attributed(messages, name):
        if message.type == "status":
            for ended in ending:
                found[ended].append(message)
            continue
        found.setdefault(job, []).append(message)
        if message.type in ENDS:
            ending.add(job)
        elif message.type == "executing" and message.data.get("node") is None:
            ending.discard(job)
    return found


def _turns(messages: list[Heard], name: Callable[[str], str]) -> list[str]:
    """Which job was told of, in turn."""
    jobs = [job for message, job in _attributed(messages, name) if message.type != "status"]
    return [job for job, _ in groupby(job for job in jobs if job)]


def _attributed(messages: list[Heard], name: Callable[[str], str]) -> Iterator[tuple[Heard, str]]:
    """Each message with its job: binary ones without an id belong to the job before them."""
    job = ""
    for message in messages:
        if isinstance(message.data, dict) and "prompt_id" in message.data:
            job = name(message.data["prompt_id"])
        of_a_job = message.type not in ("feature_flags", "ping", "pong")
        yield message, job if of_a_job else ""


def folded(messages: list[Heard]) -> list[Heard]:
    """Steps of a node as one step: how many of them a socket hears may be chance."""
    kept: list[Heard] = []
    for message in messages:
        step = message.type in ("progress_state", "progress") or message.type.startswith("binary")
        if step and _seen_since_a_node_began(kept, message):
            continue
        kept.append(message)
    return kept


def _seen_since_a_node_began(kept: list[Heard], message: Heard) -> bool:
    for previous in reversed(kept):
        if previous.type not in ("progress_state", "progress") and "binary" not in previous.type:
            return False
        if previous.type == message.type and _states(previous) == _states(message):
            return True
    return False


def _states(message: Heard) -> Any:
    if message.type != "progress_state":
        return None
    return [(node, state["state"]) for node, state in message.data["nodes"].items()]


def _opening(messages: list[Heard]) -> list[Heard]:
    """The first `status`, with its `sid`."""
    return [Heard("opening", message.data) for message in messages[:1] if message.type == "status"]


def _ends(messages: list[Heard]) -> list[str]:
    """What stands between the event that ends a run and `executing` with `node: null`."""
    found, since = [], None
    for message in messages:
        if message.type in ENDS:
            since = [message.type]
        elif since is not None:
            null = message.type == "executing" and message.data.get("node") is None
            if since[-1] != message.type:
                since.append("null" if null else message.type)
            if null:
                found.append(" ".join(since))
                since = None
    return found


def _order(recorded: list[str], actual: list[str]) -> list[str]:
    wanted, got = Counter(recorded), Counter(actual)
    found = [f"messages: - {count} {type_}" for type_, count in (wanted - got).items()]
    found += [f"messages: + {count} {type_}" for type_, count in (got - wanted).items()]
    return found or [f"order: {' '.join(recorded)} → {' '.join(actual)}"]


def _binary(frame: bytes) -> Heard:
    number = struct.unpack_from(">I", frame)[0]
    rest = frame[4:]
    if number == PREVIEW:
        return Heard("binary 1", {"image_type": struct.unpack_from(">I", rest)[0]}, rest[4:])
    length = struct.unpack_from(">I", rest)[0]
    if number == TEXT:
        node_id, text = rest[4 : 4 + length].decode(), rest[4 + length :].decode()
        return Heard("binary 3", {"node_id": node_id, "text": text})
    if number == PREVIEW_WITH_METADATA:
        about, image = json.loads(rest[4 : 4 + length]), rest[4 + length :]
        return Heard("binary 4", about, image)
    return Heard(f"binary {number}", rest.hex())
