"""How the api asks the engine, wherever that runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from jobs.samples import job

from proxy.bus import BusMessage, EventBus
from proxy.jobs.engine_client import EngineClient, answer_on
from proxy.jobs.messages import (
    CancelAnswered,
    CancelRequested,
    JobReceived,
    JobReleased,
    NewsMissed,
    OverviewAnswered,
    OverviewRequested,
    RunAnswered,
    RunRequested,
)
from proxy.jobs.models import Job
from proxy.storage.job_tables import JobKey

KEY = JobKey("anna", "one")
OVERVIEW, RUN = OverviewAnswered((), ()), RunAnswered({"nodes": {}})


@dataclass
class Engine:
    """Notes what it is asked."""

    asked: list[Any] = field(default_factory=list)

    def receive(self, job: Job) -> None:
        self.asked.append(job)

    def release(self, key: JobKey, *, watched: bool) -> None:
        self.asked.append((key, watched))

    def cancel(self, wanted: CancelRequested) -> asyncio.Future[CancelAnswered]:
        self.asked.append(wanted.keys)
        answered: asyncio.Future[CancelAnswered] = asyncio.get_running_loop().create_future()
        answered.set_result(CancelAnswered(cancelled=True))
        return answered

    def overview(self, member: str | None) -> OverviewAnswered:
        self.asked.append(member)
        return OVERVIEW

    def run(self, key: JobKey, *, picture: bool) -> RunAnswered:
        self.asked.append((key, picture))
        return RUN


class Elsewhere:
    """An engine in another process, which hears of requests on the bus."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.heard: list[BusMessage] = []
        bus.subscribe("engine", self._hear)

    def _hear(self, message: BusMessage) -> None:
        self.heard.append(message)
        match message:
            case OverviewRequested(request=request):
                self.bus.publish(f"answers.{request}", OVERVIEW)
            case RunRequested(request=request):
                self.bus.publish(f"answers.{request}", RUN)
            case CancelRequested(request=request):
                self.bus.publish(f"answers.{request}", CancelAnswered(cancelled=True))


async def ask_everything(client: EngineClient, new: Job) -> None:
    client.receive(new)
    client.release(KEY, watched=True)
    assert await client.overview("anna", 10.0) == OVERVIEW
    assert await client.run(KEY, 10.0, picture=True) == RUN
    with client.cancelled([KEY], interrupt=False, cleared=False) as answered:
        assert await answered.within(10.0) == CancelAnswered(cancelled=True)


async def test_an_engine_in_this_process_is_called_and_nothing_is_published() -> None:
    bus, new = EventBus(), job()
    client, engine, elsewhere = EngineClient(bus), Engine(), Elsewhere(bus)
    client.lead(engine)
    assert bus.leads
    await ask_everything(client, new)
    assert engine.asked == [new, (KEY, True), "anna", (KEY, True), (KEY,)]
    assert elsewhere.heard == []


@pytest.mark.parametrize("has_led", [False, True])
async def test_an_engine_elsewhere_is_asked_on_the_bus(has_led: bool) -> None:
    bus, new = EventBus(), job(order=7)
    client, engine, elsewhere = EngineClient(bus), Engine(), Elsewhere(bus)
    if has_led:
        client.lead(engine)
        client.lead(None)
    assert not bus.leads
    await ask_everything(client, new)
    received, released, overview, run, cancel = elsewhere.heard
    assert received == JobReceived(new.key, 7)
    assert released == JobReleased(KEY, watched=True)
    assert isinstance(overview, OverviewRequested)
    assert isinstance(run, RunRequested)
    assert isinstance(cancel, CancelRequested)
    assert engine.asked == []


async def test_no_answer_in_time_is_none() -> None:
    client = EngineClient(EventBus())
    assert await client.overview(None, 0.0) is None
    assert await client.run(KEY, 0.0, picture=False) is None


async def test_the_first_answer_of_its_kind_counts() -> None:
    bus = EventBus()
    with answer_on(bus, "answers.a", CancelAnswered) as answered:
        bus.publish("answers.a", NewsMissed())
        bus.publish("answers.b", CancelAnswered(False))
        assert await answered.within(0) is None
        asyncio.get_running_loop().call_soon(bus.publish, "answers.a", CancelAnswered(True))
        assert await answered.within(10) == CancelAnswered(True)
        bus.publish("answers.a", CancelAnswered(False))
        assert await answered.within(10) == CancelAnswered(True)
