"""Readings of jobs of a deployment."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.cloud.v2.readings import JobReadings

MB = 1024 * 1024


class Deployment:
    """Has one job with texts of a megabyte, and counts what is fetched."""

    def __init__(self, texts: int) -> None:
        outputs = [{"id": f"text-{number}", "type": "text"} for number in range(texts)]
        self.job = {"id": "a", "status": "running", "outputs": outputs}
        self.fetched = Counter[str]()

    async def lookup(self, *_: Any, **__: Any) -> dict[str, Any]:
        return self.job

    def learn(self, _: Any) -> None:
        pass

    @asynccontextmanager
    async def open(self, name: str, _type: str) -> AsyncIterator[Any]:
        self.fetched[name] += 1
        yield self

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"x" * MB


async def test_the_texts_of_a_job_are_bounded_together() -> None:
    given: Any = Deployment(100)
    readings = JobReadings(given, given, given, lambda: None)
    for _ in range(2):
        await readings.read("a")
    assert len(given.fetched) == 16
    assert set(given.fetched.values()) == {1}
