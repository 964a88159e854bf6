"""A job as the cloud keeps it, and the names of its states."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from proxy.simulator.assets import SimulatedAsset

#: Raw states to the five friendly ones, as the jobs routes show them.
FRIENDLY = {
    "submitted": "pending",
    "queued_limited": "pending",
    "queued_waiting": "pending",
    "preparing": "pending",
    "executing": "in_progress",
    "retryable_error": "in_progress",
    "executed": "in_progress",
    "success": "completed",
    "erroring": "failed",
    "error": "failed",
    "non_retryable_error": "failed",
    "lost": "failed",
    "cancel_requested": "cancelled",
    "cancel_pending": "cancelled",
    "cancelling_preparing": "cancelled",
    "cancelled": "cancelled",
}
#: The states in which the specification of the singular route puts a job.
SPECIFIED = {
    "submitted": "waiting_to_dispatch",
    "pending": "pending",
    "in_progress": "in_progress",
    "completed": "completed",
    "failed": "error",
    "cancelled": "cancelled",
}
TERMINAL = frozenset({"success", "error", "non_retryable_error", "lost", "cancelled"})


def now_ms() -> int:
    """Return the time in ms since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(eq=False)
class SimulatedJob:
    """A submitted graph. Times are milliseconds since 1970.

    `states` are all raw states so far, the present one last. `counted` is true until its run has
    ended, whatever its answers still say; `picked` is one that runs on a picked deployment.
    `first_event` is set when it has reported something, or has begun to wait for a slot.
    """

    graph: dict[str, Any]
    extra_data: dict[str, Any]
    output_nodes: list[str]
    number: int
    workflow_id: str | None = None
    id: str = field(default_factory=lambda: str(uuid4()))
    created: int = field(default_factory=now_ms)
    updated: int = field(default_factory=now_ms)
    started: int | None = None
    ended: int | None = None
    states: list[str] = field(default_factory=lambda: ["submitted"])
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    assets: list[SimulatedAsset] = field(default_factory=list)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    error: dict[str, Any] | None = None
    picked: bool = False
    counted: bool = True
    cancelling: bool = False
    outputs_hidden: bool = False
    first_event: asyncio.Event = field(default_factory=asyncio.Event)
    on_change: Callable[[], None] = lambda: None

    @property
    def state(self) -> str:
        """The raw state."""
        return self.states[-1]

    @property
    def status(self) -> str:
        """The friendly status."""
        return FRIENDLY[self.state]

    @property
    def terminal(self) -> bool:
        """Whether the state is a last one."""
        return self.state in TERMINAL

    def move(self, state: str) -> None:
        """Take on a raw state."""
        self.states.append(state)
        self.updated = now_ms()
        if state in TERMINAL and self.ended is None:
            self.ended = self.updated
        self.on_change()

    def reached(self, status: str) -> bool:
        """Return whether it is or was in a state, given by its raw or its friendly name."""
        return any(status in (state, FRIENDLY[state]) for state in self.states)

    def finish_node(self, node_id: str, ui: dict[str, Any]) -> None:
        """Keep what a node shows, and note of each of its assets where it is shown."""
        videos = ui.get("images")
        if isinstance(videos, list) and videos and all(map(_is_video, videos)):
            rest = {key: value for key, value in ui.items() if key not in ("images", "animated")}
            ui = {"video": videos, **rest}
        self.outputs[node_id] = ui
        unplaced = [
            asset for asset in self.assets if asset.node_id == node_id and asset.output_key is None
        ]
        for key, index, item in items_of(ui):
            for asset in unplaced:
                if asset.cloud_name == item["filename"]:
                    asset.output_key, asset.output_index = key, index
                    unplaced.remove(asset)
                    break


def items_of(ui: dict[str, Any]) -> list[tuple[str, int, dict[str, Any]]]:
    """Return the files in what a node shows: key, place in the list, item."""
    return [
        (key, index, item)
        for key, value in ui.items()
        if isinstance(value, list)
        for index, item in enumerate(value)
        if isinstance(item, dict) and isinstance(item.get("filename"), str)
    ]


def _is_video(item: object) -> bool:
    name = item.get("filename") if isinstance(item, dict) else None
    return isinstance(name, str) and name.endswith((".mp4", ".webm", ".mkv", ".mov", ".avi"))
