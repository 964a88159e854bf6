"""Publishes the messages of one job to its client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.engine.engine_bus import EngineBus
from proxy.jobs.message_order import StepBuffer
from proxy.translate.events import Message, Preview, with_metadata

#: A larger preview is not kept for those who look at the dashboard.
MAX_PREVIEW_BYTES = 1024 * 1024


@dataclass(eq=False, repr=False)
class JobPublisher:
    """Publishes on the `topic` that the client hears, in the order of the `steps`, with the
    `metadata` in each message. `preview` is the last one."""

    bus: EngineBus
    topic: str
    metadata: Mapping[str, Any]
    steps: StepBuffer
    preview: Preview | None = None

    def tell(self, message: Message) -> None:
        """Publish a message."""
        if self.metadata:
            message = with_metadata(message, self.metadata)
        numbered = self.steps.numbered(message)
        droppable = isinstance(message, Preview) and not message.result
        if isinstance(message, Preview) and droppable and len(message.image) <= MAX_PREVIEW_BYTES:
            self.preview = message
        self.bus.publish(self.topic, numbered, droppable=droppable)

    def repeat(self, epoch: int, number: int) -> None:
        """Publish the steps of the job after this one again; all of them if it is of another
        epoch."""
        for step in self.steps.after(epoch, number):
            self.bus.publish(self.topic, step)

    def close(self) -> None:
        """Forget the steps: nothing more is told of the job."""
        self.steps.close()
