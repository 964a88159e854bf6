"""What clients read of live jobs, and what comes from the storage where the bus has lost it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from jobs.samples import MEMBER, new
from waiting import until

from proxy.budget import MemoryBudget
from proxy.bus import MISSED, EventBus
from proxy.engine.recorder import JobRecorder
from proxy.engine.replay import life_of
from proxy.engine.term import Term
from proxy.engine.tracker import RecordEnd
from proxy.jobs.conversion import live_of, payload_of, stored_of
from proxy.jobs.models import (
    Job,
    JobChanged,
    JobContent,
    JobMessage,
    JobState,
    LiveJob,
    now,
    topic_of,
)
from proxy.jobs.subscribers import LiveFeed, Subscribers
from proxy.jobs.views import LiveJobs, divided, of_queue
from proxy.storage.database import Database
from proxy.storage.jobs import JobRepository, StoredJob
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.supervisor import Supervisor
from proxy.translate.events import Event, Message

CLIENT, OUTPUT = "c", {"images": [{"filename": "a.png"}]}


class Listener:
    """A client's socket: the types of what it heard, with the node of `executed`."""

    asks_for_previews = False

    def __init__(self) -> None:
        self.heard: list[str] = []

    def send(self, message: Message, *, for_all: bool) -> None:
        assert isinstance(message, Event)
        if message.type not in ("status", "progress_state"):
            node = message.data.get("node") if message.type in ("executing", "executed") else ""
            self.heard.append(f"{message.type} {node}".strip())

    def superseded(self) -> None:
        raise AssertionError


class LosingBus(EventBus):
    """A bus that can be away."""

    away = False

    @property
    def connected(self) -> bool:
        return not self.away


@dataclass
class Replica:
    """An api half over a database into which an engine elsewhere writes."""

    bus: LosingBus
    repository: JobRepository
    recorder: JobRecorder
    live: LiveJobs
    subscribers: Subscribers
    feed: LiveFeed

    async def insert(self, prompt_id: str = "p", **fields: Any) -> Job:
        graph = {"9": {"class_type": "SaveImage", "inputs": {}}}
        values: dict[str, Any] = {"accepted": True, "state": JobState.QUEUED, **fields}
        content = JobContent(graph, {"client_id": CLIENT})
        job = Job(prompt_id, MEMBER, 0, content, CLIENT, now(), **values)
        job.order = (await self.repository.insert(stored_of(job), payload_of(job))).key
        return job

    async def end(self, job: Job) -> None:
        at = now()
        start = ["execution_start", {"prompt_id": job.prompt_id, "timestamp": at}]
        cached = ["execution_cached", {"prompt_id": job.prompt_id, "nodes": [], "timestamp": at}]
        success = ["execution_success", {"prompt_id": job.prompt_id, "timestamp": at}]
        messages = [start, cached, success]
        status = {"status_str": "success", "completed": True, "messages": messages}
        await self.recorder.end(job, RecordEnd("completed", {"9": OUTPUT}, status, {}, at, at))

    def tell(self, job: Job, type_: str, **data: Any) -> None:
        message = Event(type_, {"prompt_id": job.prompt_id, **data})
        told = JobMessage(MEMBER, CLIENT, job.prompt_id, True, message, job.order)
        self.bus.publish(topic_of(MEMBER, CLIENT), told)

    def listen(self) -> Listener:
        listener = Listener()
        self.subscribers.attach(MEMBER, CLIENT, listener)
        return listener


@pytest.fixture
async def replica(database: Database) -> Replica:
    bus, repository = LosingBus(), JobRepository(database)
    lease = await LeaseRepository(database).acquire(ENGINE, "elsewhere", 60)
    assert lease is not None
    recorder = JobRecorder(repository, Term(lease), history_size=10)
    live, subscribers = (
        LiveJobs(bus, repository, Supervisor(), MemoryBudget(2**28)),
        Subscribers(bus, Supervisor()),
    )
    feed = LiveFeed(bus, repository, live, subscribers, life_of)
    return Replica(bus, repository, recorder, live, subscribers, feed)


WHOLE = [
    "execution_start",
    "execution_cached",
    "executing 9",
    "executed 9",
    "execution_success",
    "executing None",
]


async def test_a_job_that_lived_and_ended_unheard_is_told_whole_once(replica: Replica) -> None:
    listener = replica.listen()
    job = await replica.insert()
    await replica.end(job)
    await replica.feed.read()
    await replica.feed.read()
    for type_ in ("execution_success", "executing"):
        replica.tell(job, type_, node=None)
    assert listener.heard == WHOLE


async def test_what_is_heard_while_two_read_at_once_is_kept(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, doors = replica.repository.live, [asyncio.Event(), asyncio.Event()]
    waiting = list(doors)

    async def live(member: str | None = None) -> list[StoredJob]:
        rows = await read(member)
        await waiting.pop(0).wait()
        return rows

    monkeypatch.setattr(replica.repository, "live", live)
    first, second = (asyncio.create_task(replica.live.reload()) for _ in doors)
    await until(lambda: not waiting)
    doors[1].set()
    done, _ = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    job = await replica.insert()
    replica.live.put(live_of(job))
    doors[0].set()
    living, gone = await next(one for one in (first, second) if one not in done)
    assert (living, gone) == ({job.order}, [])
    assert replica.live.get(MEMBER, "p") is not None


async def test_of_a_job_that_had_begun_the_rest_is_told(replica: Replica) -> None:
    listener = replica.listen()
    job = await replica.insert()
    replica.bus.publish(f"jobs.{MEMBER}", JobChanged(live_of(job)))
    replica.tell(job, "execution_start")
    replica.tell(job, "execution_cached", nodes=[])
    replica.tell(job, "executing", node="9")
    await replica.feed.read()
    assert len(listener.heard) == 3
    await replica.end(job)
    await replica.feed.read()
    assert listener.heard == [*WHOLE[:3], *WHOLE[2:]]


async def test_ends_from_before_a_socket_opened_are_not_told(replica: Replica) -> None:
    job = await replica.insert()
    await replica.end(job)
    replica.live.put(live_of(job))
    listener = replica.listen()
    replica.subscribers._sockets[MEMBER][CLIENT].opened_at += 10
    await replica.feed.read()
    assert listener.heard == []


async def test_a_job_that_left_without_a_trace_is_told_no_end(replica: Replica) -> None:
    listener = replica.listen()
    job = await replica.insert()
    replica.live.put(live_of(job))
    await replica.repository.discard([job.order])
    await replica.feed.read()
    assert listener.heard == []
    assert list(replica.live) == []


async def test_the_storage_tells_which_jobs_live(replica: Replica) -> None:
    stays, leaves = await replica.insert("stays"), await replica.insert("leaves")
    replica.live.put(live_of(leaves))
    await replica.repository.discard([leaves.order])
    await replica.insert("unanswered", accepted=False, state=JobState.RECEIVED)
    await replica.insert("unwanted", cancel_requested=True)
    running = await replica.insert("running", cancel_requested=True, state=JobState.RUNNING)
    await replica.live.reload()
    assert [job.order for job in replica.live] == [stays.order, running.order]


async def test_of_storage_and_bus_the_newer_word_counts(replica: Replica) -> None:
    job = await replica.insert()
    known = live_of(job)
    job.state = JobState.SUBMITTING
    replica.live.put(live_of(job))
    await replica.repository.update([(job.order, {"changed_at": known.changed_at - 5})])
    await replica.live.reload()
    assert [one.state for one in replica.live] == [JobState.SUBMITTING]
    await replica.repository.update([(job.order, {"changed_at": now() + 5})])
    await replica.live.reload()
    assert [one.state for one in replica.live] == [JobState.QUEUED]


async def test_what_the_bus_says_during_a_reading_is_newer(replica: Replica) -> None:
    ended = await replica.insert("ended")
    new = live_of(await replica.insert("new"))
    read = replica.repository.live

    async def late(member: str | None = None) -> Any:
        rows = await read(member)
        replica.live.put(live_of(ended))
        replica.live.remove(live_of(ended))
        replica.live.put(new)
        return [row for row in rows if row.id != "new"]

    replica.repository.live = late  # type: ignore[method-assign]
    living, gone = await replica.live.reload()
    assert list(replica.live) == [new]
    assert (new.order in living, gone) == (True, [])


async def test_while_the_bus_is_away_an_answer_comes_from_the_storage(replica: Replica) -> None:
    job = await replica.insert()
    assert (await replica.live.now(MEMBER)).jobs == {}
    replica.bus.away = True
    assert set((await replica.live.now(MEMBER)).jobs) == {job.prompt_id}


async def test_a_loss_is_made_good_at_once(replica: Replica) -> None:
    listener, supervisor = replica.listen(), Supervisor()
    await replica.end(await replica.insert())
    supervisor.keep(replica.feed.run, "read what was missed")
    replica.feed._hear_of_terms(MISSED)
    await until(lambda: listener.heard == WHOLE)
    await supervisor.close()


def live(**fields: Any) -> LiveJob:
    return live_of(new("one", 3, extra_data={}, **fields))


@pytest.mark.parametrize(
    ("states", "running", "pending"),
    [
        ("", "", ""),
        ("queued queued", "0", "1"),
        ("queued submitted unknown", "1", "02"),
        ("queued submitted running running", "23", "01"),
    ],
)
def test_the_head_of_the_queue_counts_as_running_where_nothing_runs(
    states: str, running: str, pending: str
) -> None:
    jobs = [
        live_of(new(str(number), number, state=JobState(state)))
        for number, state in enumerate(states.split())
    ]
    shown = ["".join(job.prompt_id for job in part) for part in divided(reversed(jobs))]
    assert [sorted(shown[0]), shown[1]] == [sorted(running), pending]


@pytest.mark.parametrize("running", [True, False])
def test_a_job_without_outputs_has_counts_of_zero(running: bool) -> None:
    assert of_queue(live(), running=running) == {
        "id": "one",
        "status": "in_progress" if running else "pending",
        "priority": 3,
        "create_time": 1000,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }


def test_what_runs_says_since_when() -> None:
    shown = of_queue(live(state=JobState.RUNNING, started_at=2000), running=True)
    assert (shown["status"], shown["execution_start_time"]) == ("in_progress", 2000)
