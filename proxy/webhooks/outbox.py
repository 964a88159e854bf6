"""What the engine has to say to webhooks, at the moment when it happens.

A message is made only where an endpoint wants its type, or a job names a URL. Without webhooks
nothing is made, and nothing is written.
"""

from __future__ import annotations

import asyncio

from proxy.jobs.models import Job, JobEnd
from proxy.storage.encryption import Cipher
from proxy.storage.webhooks import WebhookMessage
from proxy.webhooks.messages import (
    STARTED,
    TYPES,
    ended_data,
    message,
    started_data,
)
from proxy.webhooks.secret import new_secret

#: The name in a job's `extra_data` of the URL that gets the message about its end.
WEBHOOK_URL = "webhook_url"


#: The types that endpoints may want, as long as it is unknown which they do.
_ANY = frozenset(TYPES)


class Outbox:
    """Makes the messages about jobs. `wanted` are the types that endpoints may want; `news` is set
    when there may be something to deliver, `budgets` when there may be a notice about a budget."""

    def __init__(self, cipher: Cipher | None = None) -> None:
        self._cipher = cipher or Cipher()
        self.wanted: frozenset[str] = _ANY
        self.news = asyncio.Event()
        self.budgets = asyncio.Event()

    def started(self, job: Job) -> WebhookMessage:
        """Return the message about a job that runs now, which is worth the while where it is
        `wanted`."""
        return message(STARTED, job.member, started_data(job))

    def ended(self, job: Job, end: JobEnd) -> WebhookMessage:
        """Return the message about the end of a job, which is worth the while where its type is
        `wanted`, or the job names a URL."""
        type_, data = f"job.{end.outcome}", ended_data(job, end)
        url = url_of(job)
        if url is None:
            return message(type_, job.member, data)
        secret = self._cipher.encrypt(new_secret().encode())
        return message(type_, job.member, data, url=url, new_secret=secret)

    def forget(self) -> None:
        """Take for unknown what endpoints want, until that is read again."""
        self.wanted = _ANY
        self.news.set()


def url_of(job: Job) -> str | None:
    """Return the URL that a job names for its end."""
    url = None if job.content is None else job.content.extra_data.get(WEBHOOK_URL)
    return url if isinstance(url, str) else None
