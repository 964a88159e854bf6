"""The messages of the event socket in the cloud's form, as the switches have it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.simulator import media
from proxy.simulator.jobs import now_ms
from proxy.simulator.switches import Switches
from proxy.translate import codec

PLAIN_PREVIEW = 1
TEXT = 3
METADATA_PREVIEW = 4
_IMAGE_FORMATS = {"image/jpeg": 1, "image/png": 2}

#: What the node failures of Python become where the cloud has classes of its own.
_CLOUD_EXCEPTIONS = {"OutOfMemoryError": "OOMError", "MemoryError": "OOMError"}


class Message(Protocol):
    """Something for a socket. `name` is the type, or `preview` or `text` for binary ones."""

    @property
    def name(self) -> str: ...

    def wire(self, flags: Mapping[str, Any], switches: Switches) -> str | bytes | None:
        """Return what goes out to a socket that announced `flags`; `None` is nothing."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """A text message."""

    name: str
    data: dict[str, Any]

    def wire(self, flags: Mapping[str, Any], switches: Switches) -> str:
        """Return `{"type", "data"}` as JSON."""
        return codec.dumps({"type": self.name, "data": self.data})


@dataclass(frozen=True, slots=True)
class PreviewFrame:
    """A picture of a running node."""

    job_id: str
    node_id: str
    image: bytes
    image_type: str
    name: str = "preview"

    def wire(self, flags: Mapping[str, Any], switches: Switches) -> bytes | None:
        """Return a frame of the binary type 4 or 1, or nothing."""
        if switches.preview == "none":
            return None
        image, image_type = self.image, self.image_type
        if switches.preview_format not in ("as_made", image_type.removeprefix("image/")):
            image = media.reencoded(image, switches.preview_format)
            image_type = f"image/{switches.preview_format}"
        plain = switches.preview == "plain" or (
            switches.preview_follows_flags and flags.get("supports_preview_metadata") is not True
        )
        if plain:
            return struct.pack(">II", PLAIN_PREVIEW, _IMAGE_FORMATS.get(image_type, 1)) + image
        metadata = {
            "node_id": self.node_id,
            "display_node_id": display_node(self.node_id),
            "real_node_id": self.node_id,
            "prompt_id": self.job_id,
            "parent_node_id": parent_node(self.node_id),
        }
        if switches.preview == "metadata_with_type":
            metadata["image_type"] = image_type
        encoded = codec.dump_bytes(metadata)
        return struct.pack(">II", METADATA_PREVIEW, len(encoded)) + encoded + image


@dataclass(frozen=True, slots=True)
class TextFrame:
    """A text of a running node."""

    job_id: str
    node_id: str
    text: str
    name: str = "text"

    def wire(self, flags: Mapping[str, Any], switches: Switches) -> bytes:
        """Return a frame of the binary type 3, with or without the job's id."""
        long = switches.text_frames == "long" or (
            switches.text_frames == "long_if_announced"
            and flags.get("supports_progress_text_metadata") is True
        )
        fields = [self.job_id, self.node_id] if long else [self.node_id]
        head = b"".join(struct.pack(">I", len(f.encode())) + f.encode() for f in fields)
        return struct.pack(">I", TEXT) + head + self.text.encode()


def display_node(node_id: str) -> str:
    """Return the node of the sent graph that a node made during the run (`1.0.0.2`) belongs to."""
    return node_id.partition(".")[0]


def parent_node(node_id: str) -> str | None:
    """Return the node that `display_node` returns, `None` for a node that was sent."""
    return display_node(node_id) if "." in node_id else None


def status(remaining: int, sid: str | None = None) -> CloudEvent:
    """Return the event with the account's number of jobs; `sid` is only in the first one."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    if sid is not None:
        data["sid"] = sid
    return CloudEvent("status", data)


def features(switches: Switches) -> dict[str, Any]:
    """Return the flags of the cloud, as the socket sends them."""
    flags: dict[str, Any] = {
        "supports_preview_metadata": True,
        "max_upload_size": media.MAX_PICTURE_BYTES,
        "free_tier_balance": {"allowance": 0, "used": 0, "remaining": 0},
        "new_free_tier_subscriptions": False,
        "sso_enabled": False,
        "web_session_probe": False,
    }
    if switches.text_frames != "short":
        flags["supports_progress_text_metadata"] = True
    return flags


def execution(name: str, job_id: str, switches: Switches, **more: Any) -> CloudEvent:
    """Return one of the `execution_*` events."""
    data: dict[str, Any] = {"prompt_id": job_id, **more}
    if switches.timestamps:
        data["timestamp"] = now_ms()
    return CloudEvent(name, data)


def executing(job_id: str, node_id: str | None) -> CloudEvent:
    """Return the event that a node begins; `None` is the end of the job."""
    data: dict[str, Any] = {"prompt_id": job_id, "node": node_id}
    if node_id is not None:
        data["display_node"] = display_node(node_id)
    return CloudEvent("executing", data)


def progress(job_id: str, node_id: str, value: float, maximum: float) -> CloudEvent:
    """Return the event of a step of a node."""
    data = {"prompt_id": job_id, "node": node_id, "value": value, "max": maximum}
    return CloudEvent("progress", data)


def executed(job_id: str, node_id: str, output: dict[str, Any] | None) -> CloudEvent:
    """Return the event that a node with output has ended."""
    return CloudEvent(
        "executed",
        {
            "prompt_id": job_id,
            "node": node_id,
            "display_node": display_node(node_id),
            "output": output,
        },
    )


def error_data(error: dict[str, Any], executed_nodes: list[str], switches: Switches) -> Any:
    """Return the fields of `execution_error` beside the job's id."""
    data = {**error, "executed": list(executed_nodes)}
    if switches.exception_types == "cloud" and error.get("node_id") is not None:
        python_type = str(error["exception_type"]).rpartition(".")[2]
        data["exception_type"] = _CLOUD_EXCEPTIONS.get(python_type, "ServiceError")
    if not switches.error_node:
        data.pop("node_id", None)
        data.pop("node_type", None)
    return {name: value for name, value in data.items() if value is not None}


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """How far a node is; `state` is `running` or `finished`."""

    state: str
    value: float
    max: float


def progress_state(
    job_id: str, nodes: Mapping[str, NodeProgress], graph: Mapping[str, Any], switches: Switches
) -> CloudEvent:
    """Return the event with how far all begun nodes of a job are."""
    return CloudEvent(
        "progress_state",
        {
            "prompt_id": job_id,
            "nodes": {
                node_id: _node_state(job_id, node_id, node, graph, switches)
                for node_id, node in nodes.items()
            },
        },
    )


def _node_state(
    job_id: str, node_id: str, node: NodeProgress, graph: Mapping[str, Any], switches: Switches
) -> dict[str, Any]:
    state: dict[str, Any] = {
        "node_id": node_id,
        "display_node_id": display_node(node_id),
        "real_node_id": node_id,
        "prompt_id": job_id,
        "class_type": (graph.get(node_id) or {}).get("class_type"),
    }
    if switches.progress_state == "full":
        state |= {
            "value": node.value,
            "max": node.max,
            "state": node.state,
            "parent_node_id": parent_node(node_id),
        }
    return state
