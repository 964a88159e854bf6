"""Publishes the messages for the client of one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.engine.news_publisher import NewsPublisher
from proxy.jobs.message_order import StepBuffer
from proxy.jobs.messages import JobMessage
from proxy.jobs.models import Job
from proxy.translate.events import Message, Preview, is_droppable, with_metadata

#: A larger preview is not kept for those who look at the dashboard.
MAX_PREVIEW_BYTES = 1024 * 1024


@dataclass(eq=False, repr=False)
class JobPublisher:
    """Publishes the messages for the client of a `job`, with the `metadata` in each.

    Where messages may be lost, `steps` numbers them and has those that are published again.
    `preview` is the last one.
    """

    publisher: NewsPublisher
    job: Job
    metadata: Mapping[str, Any]
    steps: StepBuffer | None = None
    preview: Preview | None = None

    def publish(self, message: Message) -> None:
        """Publish a message."""
        if self.metadata:
            message = with_metadata(message, self.metadata)
        job = self.job
        news = JobMessage(job.key, job.order, job.client_id, job.watched, message)
        if self.steps is not None:
            news = self.steps.numbered(news)
        if is_droppable(message) and len(message.image) <= MAX_PREVIEW_BYTES:
            self.preview = message
        self.publisher.publish(news)

    def repeat(self, epoch: int, number: int) -> None:
        """Publish the steps of the job after this one again; all of them if it is of another
        epoch."""
        if self.steps is not None:
            for step in self.steps.after(epoch, number):
                self.publisher.publish(step)

    def close(self) -> None:
        """Forget the steps: nothing more is told of the job."""
        if self.steps is not None:
            self.steps.close()
