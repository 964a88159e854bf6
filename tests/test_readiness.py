"""Whether jobs can be taken."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from proxy.cloud.errors import CloudDown, refusal
from proxy.readiness import Readiness
from proxy.store.base import StoreError


@dataclass
class World:
    """A store, a cloud and a socket that are as a test says."""

    connected: bool = True
    refused: int | None = None
    store_error: StoreError | None = None
    user: Any = None
    asked: int = 0
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    async def put(self, *_: object) -> None:
        if self.store_error is not None:
            raise self.store_error

    def readiness(self, **options: float) -> Readiness:
        cloud = type("Cloud", (), {"user": self._user})()
        return Readiness(self, cloud, self, **options)  # type: ignore[arg-type]

    async def _user(self, *_: object) -> None:
        self.asked += 1
        if isinstance(self.user, Exception):
            raise self.user
        if self.user == "silence":
            await asyncio.Event().wait()


async def test_all_is_well() -> None:
    assert await World().readiness().checks() == {"store": None, "key": None, "socket": None}


@pytest.mark.parametrize(
    ("world", "check", "words"),
    [
        (World(store_error=StoreError("read-only")), "store", "read-only"),
        (World(user=refusal("x", 401, "", None)), "key", "does not take the API key"),
        (World(user=refusal("x", 403, "", None)), "key", "plan with API access"),
        (World(user=refusal("x", 429, "", None)), "key", "status 429"),
        (World(user=CloudDown("x")), "key", "cannot be reached"),
        (World(connected=False), "socket", "is not open"),
        (World(connected=False, refused=401), "socket", "status 401"),
    ],
)
async def test_what_is_wrong_is_said_in_a_sentence(world: World, check: str, words: str) -> None:
    checks = dict(await world.readiness().checks())
    problem = checks.pop(check)
    assert problem is not None
    assert words in problem
    assert set(checks.values()) == {None}


async def test_a_cloud_that_does_not_answer_is_not_waited_for() -> None:
    async with asyncio.timeout(20):
        checks = await World(user="silence").readiness(patience=0.05).checks()
    assert "cannot be reached" in (checks["key"] or "")


async def test_an_answer_is_good_for_a_while_and_for_all_who_ask() -> None:
    world = World()
    readiness = world.readiness(max_age=0.5)
    await asyncio.gather(*(readiness.checks() for _ in range(10)))
    assert world.asked == 1
    await asyncio.sleep(0.6)
    await readiness.checks()
    assert world.asked == 2
