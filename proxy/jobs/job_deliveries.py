"""What a replica has sent to its sockets of jobs whose messages a bus brings, and may lose."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from cachetools import FIFOCache

from proxy.jobs.message_order import OVER, Delivery
from proxy.jobs.messages import JobMessage
from proxy.storage.job_tables import JobKey

#: Maximum number of remembered jobs whose end was sent.
_MAX_CLOSED = 10_000


class JobDeliveries:
    """The `Delivery` of each job until its end is sent, by the order of the job.

    `missed` is set when steps of a job are found to be missing.
    """

    def __init__(self) -> None:
        self.missed = asyncio.Event()
        self._open: dict[int, Delivery] = {}
        self._closed: FIFOCache[int, None] = FIFOCache(_MAX_CLOSED)

    def expect(
        self, order: int, key: JobKey, client_id: str | None, *, running: bool = False
    ) -> Delivery | None:
        """Note that messages of a job come here; with `running` some were sent before. Return what
        was sent of it, `None` if its end was."""
        if order not in self._open and order not in self._closed:
            number = None if running else 0
            self._open[order] = Delivery(key, client_id, number=number)
        return self._open.get(order)

    def receive(self, news: JobMessage) -> bool:
        """Take a message as it comes, and return whether to deliver it now."""
        delivery = self.expect(news.order, news.key, news.client_id)
        if delivery is None:  # the end was sent
            return False
        lacked, due = delivery.lacking, delivery.receive(news)
        if delivery.lacking and not lacked:
            self.missed.set()
        if OVER in delivery.sent:
            self.close(news.order)
        return due

    def close(self, order: int) -> None:
        """Note that no more messages of a job are to be sent."""
        self._open.pop(order, None)
        self._closed[order] = None

    def withdraw(self, order: int) -> None:
        """Forget what was sent of a job that is to leave no trace. Another engine may yet find that
        it ran: all is sent then."""
        self._open.pop(order, None)

    def forget(self, member: str, client_ids: Collection[str | None]) -> None:
        """Forget what was sent to clients of a member, which have left."""
        for order, delivery in list(self._open.items()):
            if delivery.key.member == member and delivery.client_id in client_ids:
                del self._open[order]

    def is_over(self, order: int) -> bool:
        """Return whether all messages of a job have been sent here."""
        return order in self._closed

    def unfinished(self) -> dict[int, Delivery]:
        """Return what was sent here of jobs whose end was not, by their order."""
        return dict(self._open)

    @property
    def lack(self) -> bool:
        """Whether steps of a job are missing."""
        return any(delivery.lacking for delivery in self._open.values())
