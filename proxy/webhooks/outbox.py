"""What the engine has to say to webhooks, at the moment when it happens.

A message is made only where an endpoint wants its type, or a job names a URL. Without webhooks
nothing is made, and nothing is written.
"""

from __future__ import annotations

import asyncio

from proxy.bus import MISSED, BusMessage
from proxy.jobs.models import Job, JobEnd
from proxy.storage.encryption import Cipher
from proxy.storage.webhooks import WebhookMessage
from proxy.webhooks.messages import ended_data, message, started_data
from proxy.webhooks.secret import new_secret

#: The topic of the bus about endpoints and deliveries.
TOPIC = "webhooks"
#: The name in a job's `extra_data` of the URL that gets the message about its end.
WEBHOOK_URL = "webhook_url"


class WebhooksChanged(BusMessage, frozen=True):
    """Endpoints or deliveries are others: there may be something to send."""


class Outbox:
    """Makes the messages about jobs. `wanted` are the types that any endpoint wants, `None` as long
    as that is unknown; `news` is set when there may be something to deliver."""

    def __init__(self, cipher: Cipher | None = None) -> None:
        self._cipher = cipher or Cipher()
        self.wanted: frozenset[str] | None = None
        self.news = asyncio.Event()

    def wants(self, type_: str) -> bool:
        """Return whether an endpoint may want messages of a type."""
        return self.wanted is None or type_ in self.wanted

    def started(self, job: Job) -> WebhookMessage | None:
        """Return the message about a job that runs now."""
        if not self.wants("job.started"):
            return None
        return message("job.started", job.member, started_data(job))

    def ended(self, job: Job, end: JobEnd) -> WebhookMessage | None:
        """Return the message about the end of a job."""
        type_, url = f"job.{end.outcome}", self._url(job)
        if not url and not self.wants(type_):
            return None
        secret = self._cipher.encrypt(new_secret().encode()) if url else b""
        return message(type_, job.member, ended_data(job, end), url=url, new_secret=secret)

    def hear(self, news: object) -> None:
        """Take what the bus tells."""
        if isinstance(news, WebhooksChanged):
            self.wanted = None
        if isinstance(news, WebhooksChanged) or news is MISSED:
            self.news.set()

    @staticmethod
    def _url(job: Job) -> str:
        if job.content is None:
            return ""
        url = job.content.extra_data.get(WEBHOOK_URL)
        return url if isinstance(url, str) else ""
