"""No message about a job flows before its client has the answer."""

from __future__ import annotations

from engine.worlds import World
from jobs.samples import job

from proxy.bus import BusMessage
from proxy.engine.answers import Answers
from proxy.jobs.messages import JobAnswered
from proxy.translate.errors import LocalError


def answers(world: World) -> Answers:
    return Answers(world.bus, world.announcer, world.table, world.runs, shared=False)


async def test_an_answer_names_its_job() -> None:
    world = World()
    received: list[BusMessage] = []
    world.bus.subscribe("answers", received.append)
    made = answers(world)
    made.expect(job().key)
    made.expect(job("two").key)
    made.refuse(job().key, LocalError("refused", "No."))
    assert made.accept(job("two").key)
    assert [
        (answer.key, answer.error is not None)
        for answer in received
        if isinstance(answer, JobAnswered)
    ] == [(job().key, True), (job("two").key, False)]


async def test_a_client_has_one_answer_and_nobody_else_any() -> None:
    world = World()
    received: list[BusMessage] = []
    world.bus.subscribe("answers", received.append)
    made = answers(world)
    made.refuse(job("unasked").key, LocalError("refused", "No."))
    made.expect(job().key)
    assert [made.accept(job().key), made.accept(job().key)] == [True, False]
    made.refuse(job().key, LocalError("refused", "No."))
    assert len(received) == 1


async def test_an_answer_has_what_the_cloud_has_omitted() -> None:
    world = World()
    received: list[BusMessage] = []
    world.bus.subscribe("answers", received.append)
    made = answers(world)
    made.expect(job().key)
    made.accept(job().key, {"2": "omitted"})
    assert received == [JobAnswered(job().key, {"2": "omitted"})]


def test_messages_flow_once_the_client_has_its_answer() -> None:
    world = World()
    asked = job(answered=False)
    run = world.follow(asked)
    answers(world).release(asked.key)
    answers(world).release(asked.key)
    assert asked.answered
    assert run.asked == ["release"]


def test_whether_the_client_listens_is_recorded_where_that_is_news() -> None:
    world = World()
    listens, left = job(answered=False), job("two", answered=False)
    world.table.add(listens)
    world.table.add(left)
    answers(world).release(listens.key, watched=True)
    answers(world).release(left.key, watched=False)
    assert world.recorder.noted == [("two", left.state)]
    assert not left.watched
