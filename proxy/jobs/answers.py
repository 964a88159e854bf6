"""The answers of the engine to submissions, for those who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from proxy.jobs.messages import JobAnswered
from proxy.storage.job_tables import JobKey


class Answers:
    """Where submissions wait for the engine; of several answers about a job the first counts."""

    def __init__(self) -> None:
        self._awaited: dict[JobKey, asyncio.Queue[JobAnswered]] = {}

    @contextmanager
    def awaited(self, key: JobKey) -> Iterator[asyncio.Queue[JobAnswered]]:
        """Yield what the answer about a job is put into."""
        answers = self._awaited[key] = asyncio.Queue[JobAnswered](1)
        try:
            yield answers
        finally:
            if self._awaited.get(key) is answers:
                del self._awaited[key]

    def hear(self, answer: JobAnswered) -> None:
        """Give an answer to who waits for it."""
        if answer.key in self._awaited:
            with suppress(asyncio.QueueFull):
                self._awaited[answer.key].put_nowait(answer)
