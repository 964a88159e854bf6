"""What a replica tells its sockets from the storage, where the bus has lost it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from jobs.replica import CLIENT, Listener, Replica
from jobs.samples import MEMBER
from skewed_clock import SkewedClock
from waiting import until

from proxy import clock
from proxy.bus import MISSED
from proxy.jobs.conversion import stored_of
from proxy.jobs.messages import (
    JobChanged,
    JobLeft,
    JobProgress,
    JobRecorded,
    JobsMissed,
    NewsMissed,
    StepsMissed,
    StepsReceived,
)
from proxy.jobs.models import JobState
from proxy.storage.database import StorageError
from proxy.storage.job_tables import HistoryEntry
from proxy.supervisor import Supervisor
from proxy.translate.events import Message

WHOLE = [
    "execution_start",
    "execution_cached",
    "executing 9",
    "executed 9",
    "execution_success",
    "executing None",
]


async def test_a_job_that_lived_and_ended_in_lost_messages_is_sent_whole_once(
    replica: Replica,
) -> None:
    listener = await replica.listen()
    job = await replica.insert()
    await replica.end(job)
    await replica.feed.read()
    await replica.feed.read()
    for type_ in ("execution_success", "executing"):
        replica.tell(job, type_, node=None)
    assert listener.received == WHOLE


async def test_of_a_job_that_had_begun_the_rest_is_sent(replica: Replica) -> None:
    listener = await replica.listen()
    job = await replica.insert()
    replica.bus.publish("jobs", JobChanged(stored_of(job), job.progress))
    replica.tell(job, "execution_start")
    replica.tell(job, "execution_cached", nodes=[])
    replica.tell(job, "executing", node="9")
    await replica.feed.read()
    assert len(listener.received) == 3
    await replica.end(job)
    await replica.feed.read()
    assert listener.received == WHOLE


async def test_ends_from_before_a_socket_opened_are_not_sent(replica: Replica) -> None:
    job = await replica.insert()
    await replica.end(job)
    replica.live.of(MEMBER).put(stored_of(job), JobProgress())  # this replica has not heard of it
    listener = await replica.listen()
    await replica.feed.read()
    assert listener.received == []


@pytest.mark.parametrize("hours", [-1, 1])
async def test_no_clock_of_a_replica_decides_which_ends_are_sent(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """This replica's clock is an hour off, and so are the times that the cloud tells."""
    old = await replica.insert("old")
    await replica.end(old)
    replica.live.of(MEMBER).put(stored_of(old), JobProgress())
    ahead = SkewedClock(hours * 3600.0)
    monkeypatch.setattr(clock, "source", ahead)
    listener = await replica.listen()
    monkeypatch.undo()
    await replica.end(await replica.insert("new"))
    monkeypatch.setattr(clock, "source", ahead)
    await replica.feed.read()
    assert listener.received == WHOLE
    assert listener.ids == {"new"}


async def test_an_end_of_which_only_the_record_was_received_is_sent(replica: Replica) -> None:
    listener = await replica.listen()
    job = await replica.insert()
    await replica.feed.read()
    await replica.end(job)
    replica.bus.publish("jobs", JobRecorded(job.key, job.order, CLIENT, 1))
    await replica.feed.read()
    assert listener.received == WHOLE


async def test_other_replicas_hear_of_an_end_that_was_read_before_its_client_does(
    replica: Replica,
) -> None:
    """The engine that wrote it may have stopped before it told anybody."""
    listener = await replica.listen()
    job = await replica.insert()
    await replica.end(job)
    heard: list[tuple[object, list[str]]] = []
    replica.bus.subscribe("jobs", lambda news: heard.append((news, list(listener.received))))
    await replica.feed.read()
    assert heard == [(JobLeft(job.key, job.order), [])]
    assert listener.received == WHOLE


async def test_what_an_engine_said_before_another_one_took_over_brings_no_job_back(
    replica: Replica,
) -> None:
    """A replica that stood still sends it late."""
    job, other = await replica.insert(), await replica.insert("other")
    for each, epoch in ((other, 2), (job, 1)):
        each.revision = (epoch << 32) + 1
        replica.bus.publish("jobs", JobChanged(stored_of(each), each.progress))
    assert [row.prompt_id for row in replica.live] == ["other"]


async def test_a_job_whose_end_another_replica_has_read_is_in_the_queue_no_more(
    replica: Replica,
) -> None:
    job = await replica.insert()
    replica.bus.publish("jobs", JobChanged(stored_of(job), job.progress))
    assert len(list(replica.live)) == 1
    replica.bus.publish("jobs", JobLeft(job.key, job.order))
    assert list(replica.live) == []
    replica.bus.publish("jobs", JobChanged(stored_of(job), job.progress))  # it was on its way
    assert list(replica.live) == []


async def test_a_job_whose_end_another_replica_has_read_is_in_the_list_of_the_history(
    replica: Replica,
) -> None:
    """The engine that recorded it may not have told anybody yet."""
    job = await replica.insert()
    history = replica.feed.history
    assert await history.json(MEMBER, max_items=None, offset=None) == b"{}"  # it is kept
    await replica.end(job)
    replica.bus.publish("jobs", JobLeft(job.key, job.order))
    listed = await history.json(MEMBER, max_items=None, offset=None)
    assert list(json.loads(listed)) == [job.prompt_id]


async def test_an_end_does_not_overtake_an_output_that_was_lost(replica: Replica) -> None:
    listener, supervisor = await replica.listen(), Supervisor()
    supervisor.keep(replica.feed.run, "read what was missed")
    job = await replica.insert()
    replica.tell(job, "execution_start")
    replica.tell(job, "execution_cached", nodes=[])
    replica.tell(job, "executing", node="9")
    replica.tell(job, "executed", node="9", lost=True)
    await replica.end(job)
    replica.tell(job, "execution_success")
    replica.tell(job, "executing", node=None)
    await until(lambda: listener.received == WHOLE)
    await supervisor.close()


async def test_an_end_that_comes_while_it_is_read_is_not_sent_again(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await replica.listen()
    job = await replica.insert()
    await replica.end(job)
    read = replica.repository.history.entry

    async def entry(member: str, prompt_id: str) -> HistoryEntry | None:
        found = await read(member, prompt_id)
        for name in WHOLE:
            type_, _, node = name.partition(" ")
            replica.tell(job, type_, node=None if node == "None" else node)
        return found

    monkeypatch.setattr(replica.repository.history, "entry", entry)
    await replica.feed.read()
    assert listener.received == WHOLE


async def test_a_job_that_ends_after_the_live_ones_were_read_has_left_the_queue_at_its_end(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = await replica.listen()
    job = await replica.insert()
    replica.bus.publish("jobs", JobChanged(stored_of(job), job.progress))
    read, remaining = replica.repository.history.ends_after, list[int]()

    async def ends_after(lasts: Mapping[str, int | None]) -> Any:
        await replica.end(job)
        return await read(lasts)

    def send(message: Message, *, for_all: bool) -> None:
        remaining.append(replica.live.of(MEMBER).remaining)
        Listener.send(listener, message, for_all=for_all)

    monkeypatch.setattr(replica.repository.history, "ends_after", ends_after)
    monkeypatch.setattr(listener, "send", send)
    await replica.feed.read()
    assert listener.received == WHOLE
    assert set(remaining) == {0}


async def test_of_a_job_that_runs_the_engine_is_asked_for_what_was_lost(replica: Replica) -> None:
    asked: list[object] = []
    replica.bus.subscribe("engine", asked.append)
    await replica.listen()
    job = await replica.insert(state=JobState.RUNNING)
    replica.bus.publish("jobs", JobChanged(stored_of(job), job.progress))
    await replica.feed.read()
    replica.tell(job, "execution_start")
    replica.tell(job, "execution_cached", nodes=[], lost=True)
    replica.tell(job, "executing", node="9")
    await replica.feed.read()
    expected = [
        StepsMissed((StepsReceived(job.key, job.order, *place),)) for place in ((0, 0), (1, 1))
    ]
    assert asked == expected
    replica.bus.away = True
    await replica.feed.read()
    assert asked == expected


async def test_who_opens_a_socket_while_a_job_runs_is_sent_the_rest(replica: Replica) -> None:
    asked: list[object] = []
    replica.bus.subscribe("engine", asked.append)
    job = await replica.insert(state=JobState.RUNNING)
    replica.bus.publish("jobs", JobChanged(stored_of(job), job.progress))
    replica.numbers[job.order] = 3
    listener = await replica.listen()
    await replica.feed.read()
    assert asked == []
    for type_, node in (("executed", "9"), ("execution_success", None), ("executing", None)):
        replica.tell(job, type_, node=node)
    assert listener.received == WHOLE[3:]


async def test_while_the_database_is_away_a_socket_opens_all_the_same(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(member: str) -> tuple[int, int]:
        raise StorageError(member)

    before = await replica.feed.moment(MEMBER)
    assert before.ended == 0
    monkeypatch.setattr(replica.repository.history, "moment", fail)
    after = await replica.feed.moment(MEMBER)
    assert after.ended is None
    assert before.at <= after.at < before.at + 60_000


async def test_a_job_that_left_without_a_trace_gets_no_end(replica: Replica) -> None:
    listener = await replica.listen()
    job = await replica.insert()
    replica.live.of(MEMBER).put(stored_of(job), JobProgress())
    await replica.repository.discard([job.order])
    await replica.feed.read()
    assert listener.received == []
    assert list(replica.live) == []


async def test_of_a_job_that_is_withdrawn_after_its_start_nothing_is_kept(replica: Replica) -> None:
    await replica.listen()
    job = await replica.insert()
    replica.tell(job, "execution_start")
    replica.bus.publish("jobs", JobLeft(job.key, job.order, withdrawn=True))
    assert replica.subscribers.deliveries.unfinished() == {}


async def test_the_end_of_a_withdrawn_job_that_another_engine_has_found_is_sent(
    replica: Replica,
) -> None:
    """Whether it was on the cloud was not known when it was withdrawn."""
    listener = await replica.listen()
    job = await replica.insert()
    replica.bus.publish("jobs", JobLeft(job.key, job.order, withdrawn=True))
    await replica.end(job)
    await replica.feed.read()
    assert listener.received == WHOLE


async def test_a_withdrawn_job_is_looked_for_until_it_has_left_the_storage(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody hears of it where the bus has lost that it left the queue."""
    read, reads = replica.feed.read, []

    async def counted() -> None:
        await read()
        reads.append(list(replica.subscribers.deliveries.unfinished()))

    monkeypatch.setattr(replica.feed, "read", counted)
    await replica.listen()
    job, supervisor = await replica.insert(), Supervisor()
    replica.tell(job, "execution_start")
    replica.live.of(MEMBER).put(stored_of(job), JobProgress())
    supervisor.keep(replica.feed.run, "read what was missed")
    await replica.repository.request_cancel([job.key])
    replica.feed._receive(MISSED)
    await until(lambda: len(reads) == 4)
    assert reads == [[job.order]] * 4
    assert list(replica.live) == []
    await replica.repository.discard([job.order])
    await until(lambda: replica.subscribers.deliveries.unfinished() == {})
    await supervisor.close()


async def test_a_replica_that_starts_shows_what_the_engine_has_not_written_yet(
    replica: Replica,
) -> None:
    job, supervisor = await replica.insert(accepted=False), Supervisor()

    def repeat(news: object) -> None:
        if isinstance(news, NewsMissed):
            job.accepted, job.revision = True, 1
            replica.bus.publish("jobs", JobChanged(stored_of(job), job.progress))

    replica.bus.subscribe("sockets", repeat)
    await replica.feed.start(supervisor)
    assert [row.prompt_id for row in replica.live] == [job.prompt_id]
    assert not replica.live.certain
    await until(lambda: replica.live.certain)
    await supervisor.close()


async def test_jobs_are_read_when_an_engine_has_taken_them_over(replica: Replica) -> None:
    job = await replica.insert()
    replica.bus.publish("jobs", JobsMissed())
    assert job.prompt_id in (await replica.live.now(MEMBER)).jobs


async def test_a_loss_is_made_good_at_once(replica: Replica) -> None:
    listener, supervisor = await replica.listen(), Supervisor()
    await replica.end(await replica.insert())
    supervisor.keep(replica.feed.run, "read what was missed")
    replica.feed._receive(MISSED)
    await until(lambda: listener.received == WHOLE)
    await supervisor.close()
