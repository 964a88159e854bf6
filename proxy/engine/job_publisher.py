"""Publishes the messages for the client of one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.jobs.messages import JobMessage
from proxy.jobs.models import Job
from proxy.storage.job_tables import JobKey
from proxy.translate.events import Message, Preview, is_droppable, with_metadata

#: A larger preview is not kept for those who look at the dashboard.
MAX_PREVIEW_BYTES = 1024 * 1024


@dataclass(eq=False, repr=False)
class JobPublisher:
    """Publishes the messages for the client of a `job` by `tell`, with the `metadata` in each.
    `preview` is the last one."""

    tell: Callable[[JobMessage], None]
    job: Job
    metadata: Mapping[str, Any]
    preview: Preview | None = None
    _key: JobKey = field(init=False)

    def __post_init__(self) -> None:
        self._key = self.job.key

    def publish(self, message: Message) -> None:
        """Publish a message."""
        if self.metadata:
            message = with_metadata(message, self.metadata)
        if is_droppable(message) and len(message.image) <= MAX_PREVIEW_BYTES:
            self.preview = message
        job = self.job
        self.tell(JobMessage(self._key, job.client_id, job.watched, message))
