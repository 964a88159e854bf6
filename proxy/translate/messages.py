"""What a local ComfyUI sends on its websocket, as values.

A message is made once and may go to many sockets; its wire form is made at most once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from proxy.translate import codec


@dataclass(frozen=True)
class Event:
    """A text message `{"type": type, "data": data}`."""

    type: str
    data: dict[str, Any]

    @cached_property
    def text(self) -> str:
        """The JSON text as ComfyUI writes it."""
        return codec.dumps({"type": self.type, "data": self.data})


@dataclass(frozen=True)
class Preview:
    """A picture of a running node; goes out as binary type 4 or type 1, as the socket asked for.

    `result` marks the pictures of `SaveImageWebsocket`, which are the node's output and must not
    be dropped. `leads` says that the matching `progress` is still to come, as it is for frames
    with metadata; without metadata a local ComfyUI sends the preview behind its `progress`.
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


@dataclass(frozen=True)
class NodeText:
    """A text about a running node (binary type 3, short form)."""

    node_id: str
    text: str


Message: TypeAlias = Event | Preview | NodeText


def status(queue_remaining: int, sid: str | None = None) -> Event:
    """The number of jobs pending or running; `sid` only in a connection's first message."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": queue_remaining}}}
    if sid is not None:
        data["sid"] = sid
    return Event("status", data)
