"""The messages of one job to its client."""

from __future__ import annotations

import asyncio
from pathlib import Path

import gated
import pytest
from engine.rig import running_engine
from engine.worlds import World
from jobs.samples import job
from waiting import until

from proxy.bus import BusMessage, EventBus
from proxy.engine.job_publisher import MAX_PREVIEW_BYTES, JobPublisher
from proxy.jobs.messages import JobMessage, StepsMissed, StepsReceived, topic_of
from proxy.simulator import Simulator
from proxy.translate.events import Event, Message, Preview, with_metadata


def told(world: World, *messages: Message, metadata: dict[str, str] | None = None) -> list[Message]:
    """What the client of a job hears of these messages."""
    received: list[Message] = []

    def hear(message: object) -> None:
        assert isinstance(message, JobMessage)
        assert message.message is not None
        received.append(message.message)

    publisher = JobPublisher(world.announcer.publisher, job(), metadata or {})
    with world.bus.subscribe(topic_of("anna", "c"), hear):
        for message in messages:
            publisher.publish(message)
    return received


def test_each_message_has_the_metadata_of_its_job() -> None:
    event = Event("executing", {"node": "1"})
    (heard,) = told(World(), event, metadata={"workflow_id": "w"})
    assert heard == with_metadata(event, {"workflow_id": "w"})
    assert heard != event


@pytest.mark.parametrize(("size", "kept"), [(10, True), (MAX_PREVIEW_BYTES + 1, False)])
def test_the_last_preview_is_kept_unless_it_is_large(size: int, kept: bool) -> None:
    publisher = JobPublisher(World().announcer.publisher, job(), {})
    preview = Preview("p", "1", "1", None, "1", bytes(size), "image/jpeg")
    publisher.publish(preview)
    assert (publisher.preview == preview) is kept


async def test_a_replica_that_has_missed_steps_gets_them_once_more(
    simulator: Simulator, tmp_path: Path, opened: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventBus, "lossy", True)
    async with running_engine(simulator, tmp_path) as rig:
        job, _ = await rig.submit(gated.GRAPH)
        await until(lambda: rig.messages_of(job)[-1:] == ["executing 1"])
        first = [message for message in rig.received if isinstance(message, JobMessage)]
        steps = [message for message in first if message.step is not None]
        assert [message.number for message in steps] == list(range(1, len(steps) + 1))
        assert {message.epoch for message in first} == {1}

        def repeated(epoch: int, number: int, order: int = job.order) -> list[BusMessage]:
            rig.received.clear()
            received = StepsReceived(job.key, order, epoch, number)
            rig.bus.publish("engine", StepsMissed((received,)))
            return list(rig.received)

        assert repeated(1, 1) == steps[1:]
        assert repeated(1, len(steps)) == []
        assert repeated(0, 5) == steps  # of another engine
        assert repeated(1, 0, order=job.order + 1) == []
        opened.set()
        await rig.ended(job)
        assert repeated(1, 0) == []
