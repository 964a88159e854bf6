"""Publishes the messages for the client of one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.engine.news_publisher import NewsPublisher
from proxy.jobs.message_order import StepBuffer
from proxy.jobs.messages import JobMessage
from proxy.jobs.models import Job
from proxy.storage.job_tables import JobKey
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
    _key: JobKey = field(init=False)

    def __post_init__(self) -> None:
        self._key = self.job.key

    def publish(self, message: Message) -> None:
        """Publish a message."""
        if self.metadata:
            message = with_metadata(message, self.metadata)
        job, steps = self.job, self.steps
        epoch, number, step = (0, 0, None) if steps is None else steps.position(message)
        client, watched = job.client_id, job.watched
        news = JobMessage(self._key, job.order, client, watched, message, epoch, number, step)
        if steps is not None:
            steps.keep(news)
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
