"""The messages of a local ComfyUI as values, and the cloud's events in their form.

A message is made once and may go to many sockets; its wire form is made at most once. A function
that makes an event local takes the cloud's `data` and gives the whole local `data`; keys that
neither side documents pass through.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict, TypeGuard, Unpack

from msgspec import Struct
from msgspec.structs import astuple, replace

from proxy.translate import codec
from proxy.translate.graph_shape import class_of
from proxy.translate.reading import list_of, object_of, objects_of
from proxy.translate.snapshots import milliseconds


class Event(Struct, eq=False):
    """A text message `{"type": type, "data": data}`, made of its data or, without that, of its
    JSON."""

    type: str
    _data: dict[str, Any] | None = None
    _text: str | None = None

    @property
    def data(self) -> dict[str, Any]:
        """The fields of the message."""
        if self._data is None:
            self._data = codec.loads(self._text or "{}")["data"]
        return self._data

    @property
    def text(self) -> str:
        """The JSON text as ComfyUI writes it."""
        if self._text is None:
            self._text = codec.dumps({"type": self.type, "data": self._data})
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and (self.type, self.data) == (other.type, other.data)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Event({self.type!r}, {self.data!r})"


class Preview(Struct, frozen=True, weakref=True):
    """A picture of a running node; goes out as binary type 4 or type 1, as the socket asked for.

    `result` marks the pictures of `SaveImageWebsocket`, which are the node's output and must not
    be dropped. `leads` says that the matching `progress` is still to come, as it is for frames
    with metadata; without metadata a local ComfyUI sends the preview after its `progress`.
    `metadata` is the JSON of the job's own, which goes out in type 4.
    """

    prompt_id: str
    node_id: str
    display_node_id: str
    parent_node_id: str | None
    real_node_id: str
    image: bytes
    image_type: str  # "image/jpeg" or "image/png"
    result: bool = False
    leads: bool = True
    metadata: bytes = b""


class NodeText(Struct, frozen=True):
    """A text about a running node (binary type 3, short form)."""

    node_id: str
    text: str


class Binary(Struct, frozen=True):
    """A frame that is a node's result: `data` goes out as it is, and is never dropped."""

    prompt_id: str
    data: bytes


Message: TypeAlias = Event | Preview | NodeText | Binary

#: What a message takes in memory in addition to its content, in bytes.
MESSAGE_OVERHEAD = 256


def is_droppable(message: Message) -> TypeGuard[Preview]:
    """Return whether a message may be left out: a preview that is no result."""
    return isinstance(message, Preview) and not message.result


def size_of(message: Message) -> int:
    """Return the approximate bytes of a message in memory."""
    match message:
        case Event() | NodeText():
            return MESSAGE_OVERHEAD + len(message.text)
        case Preview(image=content) | Binary(data=content):
            return MESSAGE_OVERHEAD + len(content)


class NodeMessages(Struct, frozen=True):
    """The messages to a client about a node's result: `messages`, then `executed` with `ui`.

    There is no `executed` if `ui` is `None`. A node that is cached, or has not run because another
    one has the same result, sends no `messages`, unless it runs each time (`again`).
    """

    messages: tuple[Message, ...] = ()
    ui: dict[str, Any] | None = None
    again: bool = False


#: The field that the cloud adds to its messages.
_OF_THE_CLOUD = "workflow_id"


def without_additions(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the data of a message of the cloud without what it has added."""
    if _OF_THE_CLOUD not in data:
        return data
    return {key: value for key, value in data.items() if key != _OF_THE_CLOUD}


def with_added(data: dict[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of a message about a job with the job's metadata, which replaces none."""
    if "prompt_id" not in data:
        return data
    return {**data, **{key: value for key, value in metadata.items() if key not in data}}


def with_metadata(message: Message, metadata: Mapping[str, Any]) -> Message:
    """Return a message about a job with the job's own metadata."""
    if isinstance(message, Event):
        return Event(message.type, with_added(message.data, metadata))
    if isinstance(message, Preview):
        return replace(message, metadata=codec.dump_bytes(metadata))
    return message


_KINDS = {Preview: "preview", NodeText: "text", Binary: "binary"}
_CLASSES = {kind: message for message, kind in _KINDS.items()}


def packed(message: Message) -> tuple[Any, ...]:
    """Return the message in types of MessagePack: an event as its JSON, so that no number is
    changed."""
    if isinstance(message, Event):
        return "event", message.type, message.text
    return _KINDS[type(message)], *astuple(message)


def unpacked(values: Sequence[Any]) -> Message:
    """Return the message that `packed` has packed."""
    kind, *rest = values
    return Event(rest[0], None, rest[1]) if kind == "event" else _CLASSES[kind](*rest)


def status(queue_remaining: int, sid: str | None = None) -> Event:
    """Return the event for the number of pending or running jobs; `sid` only in a connection's
    first message."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": queue_remaining}}}
    if sid is not None:
        data["sid"] = sid
    return Event("status", data)


# --- the cloud's events ------------------------------------------------------------------

#: Types that the cloud has and a local ComfyUI has not; clients may stumble over them.
_CLOUD_ONLY = frozenset({"notification", "feature_flags", "status", "logs"})
_CLOUD_ONLY_PREFIXES = ("asset_", "agent_")

#: Types that tell of the end of a run, but for an `execution_error` of a blocked branch.
TERMINAL_EVENTS = frozenset({"execution_success", "execution_error", "execution_interrupted"})

#: The types that documents list, with the fields that none of their messages is without.
LISTED_EVENTS: dict[str, frozenset[str]] = {
    "status": frozenset({"status"}),
    "execution_start": frozenset({"prompt_id"}),
    "execution_cached": frozenset({"prompt_id", "nodes"}),
    "executing": frozenset({"prompt_id", "node"}),
    "progress": frozenset({"prompt_id", "node", "value", "max"}),
    "progress_state": frozenset({"prompt_id", "nodes"}),
    "executed": frozenset({"prompt_id", "node", "output"}),
    "execution_success": frozenset({"prompt_id"}),
    "execution_error": frozenset({"prompt_id", "exception_message"}),
    "execution_interrupted": frozenset({"prompt_id"}),
    "notification": frozenset(),
    "feature_flags": frozenset(),
    "logs": frozenset(),
    "asset_download": frozenset(),
    "asset_export": frozenset(),
}

Data = dict[str, Any]


def concerns_a_job(type_: str, data: Mapping[str, Any]) -> str | None:
    """Return the cloud id of the job that an event is about, `None` if clients need not see the
    event."""
    if type_ in _CLOUD_ONLY or type_.startswith(_CLOUD_ONLY_PREFIXES):
        return None
    prompt_id = data.get("prompt_id")
    return prompt_id if isinstance(prompt_id, str) else None


def unlisted(type_: str, data: Mapping[str, Any]) -> str | None:
    """Return what part of an event no document lists: `type` or the missing fields, else `None`."""
    if type_.startswith(_CLOUD_ONLY_PREFIXES):
        return None
    fields = LISTED_EVENTS.get(type_)
    if fields is None:
        return "type"
    lacking = sorted(fields - data.keys())
    return f"without {', '.join(lacking)}" if lacking else None


def is_blocked_branch(type_: str, data: Mapping[str, Any]) -> bool:
    """Return whether an `execution_error` is about a branch that a node blocked: the run
    continues."""
    return type_ == "execution_error" and data.get("exception_type") == "ExecutionBlocked"


def is_terminal(type_: str, data: Mapping[str, Any]) -> bool:
    """Return whether an event says how the run has ended."""
    return type_ in TERMINAL_EVENTS and not is_blocked_branch(type_, data)


def timestamp(data: Mapping[str, Any], now: int) -> int:
    """Return the time of an event, in ms: the cloud's, if it sends one (that is not documented), or
    now."""
    return milliseconds(data.get("timestamp")) or now


def executing(data: Mapping[str, Any], prompt_id: str, *, outer: str) -> Data:
    """Return `{node, display_node, prompt_id}`; `outer` is the node of the client's graph that it
    is of."""
    node = str(data["node"])
    shown = other_than(node, data.get("display_node")) or outer
    return {**data, "node": node, "display_node": shown, "prompt_id": prompt_id}


def other_than(node_id: str, shown: object) -> str:
    """Return the id under which a node is shown, "" if that is its own."""
    return "" if shown is None or str(shown) == node_id else str(shown)


def finished_nodes(nodes: Mapping[str, Any]) -> set[str]:
    """Return which of the `nodes` of a `progress_state` it calls finished."""
    return {
        node_id
        for node_id, node in nodes.items()
        if isinstance(node, dict) and node.get("state") == "finished"
    }


def names_file(output: object) -> bool:
    """Return whether a node's output has an item with a `filename`."""
    lists = object_of(output).values()
    return any("filename" in item for items in lists for item in objects_of(items))


def node_state(
    prompt_id: str, node_id: str, node: Mapping[str, Any], before: Mapping[str, Any], *, outer: str
) -> Data:
    """Return one node of `progress_state`; the cloud documents only some of the fields.

    `outer` is the node of the client's graph that it is of.

    What is missing comes from what was known of the node before; a node never heard of is running
    with 0.0 of 1.0, as ComfyUI begins. The cloud may tell the `activity` of a node that runs, and
    the `seconds` of one that has finished.
    """
    parent = node.get("parent_node_id", before.get("parent_node_id"))
    state = node.get("state", before.get("state", "running"))
    timing: Data = {}
    if state == "finished":
        seconds = node.get("seconds", before.get("seconds"))
        timing = {} if seconds is None else {"seconds": seconds}
    elif "activity" in node:
        timing = {"activity": node["activity"]}
    return {
        "value": node.get("value", before.get("value", 0.0)),
        "max": node.get("max", before.get("max", 1.0)),
        "state": state,
        "node_id": node_id,
        "prompt_id": prompt_id,
        "display_node_id": other_than(node_id, node.get("display_node_id")) or outer,
        "parent_node_id": None if parent is None else str(parent),
        "real_node_id": other_than(node_id, node.get("real_node_id")) or outer,
        **timing,
    }


class Progress(TypedDict):
    """How far a run of `graph` is: `node_id` is the node that ran last, which stands in where the
    cloud names none."""

    prompt_id: str
    node_id: str | None
    graph: Mapping[str, Any]
    executed: Iterable[str]


def execution_error(data: Mapping[str, Any], *, now: int, **run: Unpack[Progress]) -> Data:
    """Return the whole event of a failed run, from an event or from `execution_error` of a job.

    The cloud gives `current_outputs` as an object, ComfyUI as a list of node ids.
    """
    message = str(data.get("exception_message") or "The run failed without a reason.")
    return {
        **_end_node(data, **run),
        "exception_message": message,
        "exception_type": str(data.get("exception_type") or "RuntimeError"),
        "traceback": _lines(data.get("traceback")),
        "current_inputs": _inputs(data.get("current_inputs")),
        "current_outputs": _ids(data.get("current_outputs"), ()),
        "timestamp": timestamp(data, now),
    }


def blocked_branch(data: Mapping[str, Any], **run: Unpack[Progress]) -> Data:
    """Return the event of a blocked branch: without a time, and with empty lists for missing
    fields."""
    error = execution_error(data, now=0, **run)
    del error["timestamp"]
    error["current_inputs"] = error["current_inputs"] or []
    return error


def execution_interrupted(data: Mapping[str, Any], *, now: int, **run: Unpack[Progress]) -> Data:
    """Return the event with the node and the executed nodes, as ComfyUI does; the cloud sends only
    the id."""
    return {**_end_node(data, **run), "timestamp": timestamp(data, now)}


def _end_node(data: Mapping[str, Any], **run: Unpack[Progress]) -> Data:
    """Return the node in which a run ends, and the nodes that had been executed.

    ComfyUI always names one: where none ran it is the first of the graph.
    """
    node = data.get("node_id")
    node_id = str(node) if node is not None else run["node_id"]
    if node_id is None:
        node_id = next(iter(run["graph"]), "")
    return {
        "prompt_id": run["prompt_id"],
        "node_id": node_id,
        "node_type": data.get("node_type") or class_of(run["graph"].get(node_id)),
        "executed": _ids(data.get("executed"), run["executed"]),
    }


def _inputs(value: object) -> Data:
    """Return `current_inputs` without the hidden inputs that hold a credential."""
    if not isinstance(value, dict):
        return {}
    return {
        name: shown if isinstance(shown, list) else [str(shown)]
        for name, shown in value.items()
        if name not in codec.CREDENTIAL_KEYS
    }


def _ids(value: object, otherwise: Iterable[str]) -> list[str]:
    if isinstance(value, list | dict):
        return [str(node) for node in value]
    return list(otherwise)


def _lines(value: object) -> list[str]:
    if isinstance(value, str):
        return value.splitlines(keepends=True)
    return [str(line) for line in list_of(value)]
