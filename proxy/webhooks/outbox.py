"""What the engine has to say to webhooks, at the moment when it happens.

A message is made only where an endpoint wants its type. Without webhooks nothing is made, and
nothing is written.
"""

from __future__ import annotations

import asyncio

from proxy.jobs.models import Job, JobEnd
from proxy.storage.webhooks import WebhookMessage
from proxy.webhooks.messages import (
    STARTED,
    TYPES,
    ended_data,
    message,
    started_data,
)

#: The types that endpoints may want, as long as it is unknown which they do.
_ANY = frozenset(TYPES)


class Outbox:
    """Makes the messages about jobs. `wanted` are the types that endpoints may want; `news` is set
    when there may be something to deliver, `budgets` when there may be a notice about a budget."""

    def __init__(self) -> None:
        self.wanted: frozenset[str] = _ANY
        self.news = asyncio.Event()
        self.budgets = asyncio.Event()

    def started(self, job: Job) -> WebhookMessage:
        """Return the message about a job that runs now, which is worth the while where it is
        `wanted`."""
        return message(STARTED, job.member, started_data(job))

    def ended(self, job: Job, end: JobEnd) -> WebhookMessage:
        """Return the message about the end of a job, which is worth the while where its type is
        `wanted`."""
        return message(f"job.{end.outcome}", job.member, ended_data(job, end))

    def forget(self) -> None:
        """Take for unknown what endpoints want, until that is read again."""
        self.wanted = _ANY
        self.news.set()
