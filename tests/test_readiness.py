"""Whether jobs can be taken."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from proxy.api.readiness import Readiness, Report
from proxy.cloud.errors import CloudDown, refusal
from proxy.cloud.key_checks import KeyChecks
from proxy.jobs.models import AccountView
from proxy.storage.database import BusyError, OutcomeUnknownError, StorageError


@dataclass
class World:
    """A store, a cloud and a socket that are as a test says."""

    connected: bool = True
    refused: int | None = None
    store_error: StorageError | None = None
    user: Any = None
    rests: str | None = None
    asked: int = 0
    problem: str | None = None
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, *_: object) -> None:
        if self.store_error is not None:
            raise self.store_error

    def readiness(self, **options: float) -> Readiness:
        return self.readiness_of(default=self, **options)

    def readiness_of(self, **others: Any) -> Readiness:
        """The readiness of this store with accounts of these worlds, by their names."""
        worlds = {name: other for name, other in others.items() if isinstance(other, World)}
        options = {name: other for name, other in others.items() if name not in worlds}
        views = [world.account(name) for name, world in worlds.items()]
        clouds: Any = {
            name: SimpleNamespace(check_key=world._check_key) for name, world in worlds.items()
        }
        sources, timeout = options.pop("key_sources", {}), options.pop("timeout", 5.0)
        keys = KeyChecks(clouds, sources, timeout)
        return Readiness(self, lambda: views, keys, **options)  # type: ignore[arg-type]

    def account(self, name: str) -> AccountView:
        """An account of this world."""
        return AccountView(name, 1, 0, self.rests, None, self.connected, self.refused)

    async def _check_key(self) -> None:
        self.asked += 1
        if isinstance(self.user, Exception):
            raise self.user
        if self.user == "silence":
            await asyncio.Event().wait()


async def test_all_is_well() -> None:
    checks = {"store": "ok", "key": "ok", "socket": "ok"}
    assert await World().readiness().report(patient=True) == Report(None, checks)


@pytest.mark.parametrize(
    ("world", "check", "words"),
    [
        (World(store_error=StorageError("read-only")), "store", "read-only"),
        (World(user=refusal("x", 401, "", None)), "key", "does not accept the API key"),
        (World(user=refusal("x", 403, "", None)), "key", "plan with API access"),
        (World(user=refusal("x", 429, "", None)), "key", "status 429"),
        (World(user=CloudDown("x")), "key", "cannot be reached"),
        (World(user=CloudDown("x", status=503)), "key", "unavailable (status 503)"),
        (World(rests="no_credits"), "key", "no credits"),
        (World(connected=False), "socket", "is not open"),
        (World(connected=False, refused=401), "socket", "status 401"),
    ],
)
async def test_what_is_wrong_is_reported_in_a_sentence(
    world: World, check: str, words: str
) -> None:
    report = await world.readiness().report(patient=True)
    checks = dict(report.checks)
    problem = checks.pop(check)
    assert words in problem
    assert report.reason == problem
    assert set(checks.values()) == {"ok"}


async def test_a_cloud_that_does_not_answer_is_not_waited_for() -> None:
    world = World()
    readiness = world.readiness(max_age=0.0, timeout=1.0)
    assert (await readiness.report(patient=True)).reason is None
    world.user = "silence"
    assert (await readiness.report()).reason is None

    async def is_said() -> bool:
        return "cannot be reached" in ((await readiness.report()).reason or "")

    await until(is_said)
    await readiness.close()


async def test_a_cloud_that_does_not_answer_is_asked_again_soon() -> None:
    world = World(user=CloudDown("x"))
    readiness = world.readiness(max_age=600.0)
    assert (await readiness.report(patient=True)).reason is not None
    world.user = None
    async with asyncio.timeout(60):
        while (await readiness.report()).reason is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_an_answer_of_a_gateway_is_that_of_no_cloud(status: int) -> None:
    report = await World(user=refusal("x", status, "", None)).readiness().report(patient=True)
    assert report.reason == f"Comfy Cloud is unavailable (status {status}): try again later."


async def test_before_the_cloud_has_answered_once_nothing_is_ready() -> None:
    readiness = World(user="silence").readiness()

    async def is_said() -> bool:
        return "has not answered yet" in ((await readiness.report()).reason or "")

    await until(is_said)
    await readiness.close()


async def test_an_answer_is_good_for_a_while_and_for_all_who_ask() -> None:
    world = World()
    readiness = world.readiness(max_age=0.1)
    await asyncio.gather(*(readiness.report(patient=True) for _ in range(10)))
    assert world.asked == 1
    await asyncio.sleep(0.15)
    await readiness.report(patient=True)
    assert world.asked == 2


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (World(), None),
        (World(connected=False), "does not accept the API key"),
        (World(rests="no_credits"), "does not accept the API key"),
    ],
)
async def test_one_account_that_can_be_used_is_enough(other: World, reason: str | None) -> None:
    bad = World(user=refusal("x", 401, "", None))
    places = {"bad": "/run/secrets/key_file"}
    readiness = bad.readiness_of(bad=bad, other=other, key_sources=places)
    report = await readiness.report(patient=True)
    assert (report.reason is None) == (reason is None)
    assert (reason or "") in (report.reason or "")
    assert report.checks["store"] == "ok"
    assert "put it into /run/secrets/key_file." in report.checks["accounts"]["bad"]["key"]
    assert report.checks["accounts"]["bad"]["socket"] == "ok"
    if reason is None:
        assert report.checks["accounts"]["other"] == {"key": "ok", "socket": "ok"}


@pytest.mark.parametrize("error", [BusyError, OutcomeUnknownError])
async def test_it_is_ready_while_the_store_has_much_to_do(error: type[StorageError]) -> None:
    report = await World(store_error=error("units wait")).readiness().report(patient=True)
    assert (report.reason, report.checks["store"]) == (None, "ok")


async def test_a_database_that_is_away_is_reported_at_once() -> None:
    world = World()
    readiness = world.readiness(max_age=60.0)
    assert (await readiness.report(patient=True)).reason is None
    world.problem = "connection refused"
    assert "(connection refused)" in ((await readiness.report()).reason or "")
    world.problem = None
    assert (await readiness.report()).reason is None


async def test_nobody_who_asks_waits() -> None:
    readiness = World(user="silence").readiness()
    assert "try again later" in ((await readiness.report()).reason or "")
    await readiness.close()


async def test_who_watches_hears_that_the_process_stops_before_it_does() -> None:
    readiness = World().readiness()
    assert (await readiness.report(patient=True)).reason is None
    leaving = asyncio.create_task(readiness.leave())
    await asyncio.sleep(0)
    assert not leaving.done()
    assert "is stopping" in ((await readiness.report()).reason or "")
    await leaving


async def test_nobody_is_waited_for_who_does_not_watch() -> None:
    await World().readiness().leave()
