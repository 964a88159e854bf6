"""What the engine writes of a job and how often, and what it says on the bus."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import graphs
import pytest
from jobs.samples import job, with_content
from sqlalchemy import update
from stack import Client, running_proxy
from waiting import until

from proxy.app import storage
from proxy.bus import BusMessage, EventBus
from proxy.engine import recorder as recorder_module
from proxy.engine.accounts import Account, Slots
from proxy.engine.announcer import Announcer
from proxy.engine.recorder import JobRecorder
from proxy.engine.scheduler import Scheduler
from proxy.engine.term import Term
from proxy.engine.tracker import EventReceived, RecordEnd, Tracker
from proxy.engine.worker import AccountWorker
from proxy.jobs.conversion import payload_of, stored_of
from proxy.jobs.models import (
    Job,
    JobChanged,
    JobKey,
    JobLeft,
    JobsAhead,
    JobState,
    NodeRuns,
    NotLoadedError,
    topic_of,
)
from proxy.members.member import Member
from proxy.metrics import Metrics
from proxy.simulator import Simulator
from proxy.storage.database import Database, FencedError, StorageError
from proxy.storage.encryption import Cipher
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, Lease, LeaseRepository
from proxy.storage.tables import job_payloads
from proxy.translate.errors import LocalError


def received(**fields: Any) -> Job:
    values: dict[str, Any] = {
        "prompt_id": "one",
        "member": "local",
        "number": 0,
        "client_id": None,
        "create_time": 0,
        **fields,
    }
    return Job(**with_content(values))


async def recorder(database: Database, folder: Path, holder: str = "one") -> JobRecorder:
    """That of an engine whose term begins."""
    repository = JobRepository(database, Cipher(folder / "credentials.key"))
    lease = await LeaseRepository(database).acquire(ENGINE, holder, 60, alone=True)
    assert lease is not None
    return JobRecorder(repository, Term(lease), history_size=10)


async def stored(database: Database, folder: Path, **fields: Any) -> Job:
    """A job that the api has put into the storage."""
    made = received(**fields)
    repository = JobRepository(database, Cipher(folder / "credentials.key"))
    made.order = (await repository.insert(stored_of(made), payload_of(made))).key
    return made


async def live(database: Database, folder: Path) -> list[Job]:
    """What another start finds."""
    repository = JobRepository(database, Cipher(folder / "credentials.key"))
    jobs, _ = await JobRecorder(repository, Term(Lease("", "", 0)), history_size=10).load()
    return jobs


async def settled_commits(database: Database) -> int:
    """How many there have been, when for a while none has come."""
    before, commits = -1, database.commits
    while before != commits:
        await asyncio.sleep(0.3)
        before, commits = commits, database.commits
    return commits


@pytest.mark.sqlite  # its commits are counted
async def test_a_small_job_costs_four_transactions_and_two_before_its_answer(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Database] = []

    async def open_and_remember(path: Path, **options: Any) -> Any:
        opened.append(await open_folder(path, **options))
        return opened[-1]

    open_folder = storage.open_folder
    monkeypatch.setattr(storage, "open_folder", open_and_remember)
    monkeypatch.setattr(recorder_module, "_GATHER", 60.0)  # however slow the machine is
    async with running_proxy(simulator, tmp_path, audit_days=0, prefetch="off") as proxy:
        client = Client(session, proxy.url)
        await client.run(graphs.plain(1))
        (database,) = opened
        before = await settled_commits(database)
        async with client.listening() as listener:
            prompt_id = await client.submit(graphs.plain(2))
            answered = database.commits - before
            await listener.until_end(prompt_id)
        assert answered <= 2
        assert await settled_commits(database) - before <= 4


async def test_changes_are_gathered_and_the_graph_is_written_once(
    database: Database, tmp_path: Path
) -> None:
    one = await recorder(database, tmp_path)
    made = await stored(
        database, tmp_path, state=JobState.SUBMITTING, account="main", graph={"1": {}}
    )
    commits = database.commits
    made.cloud_id = "c"
    made.to(JobState.SUBMITTED)
    one.changed(made)
    made.started_at = 5
    made.to(JobState.RUNNING)
    one.changed(made)
    await one.flush()
    assert database.commits == commits + 1
    (kept,) = await live(database, tmp_path)
    assert (kept.state, kept.cloud_id, kept.started_at) == (JobState.RUNNING, "c", 5)
    assert kept.graph == {"1": {}}
    assert kept.order == made.order


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("proxy.db*"))


async def test_credentials_are_kept_encrypted_until_the_job_is_sent(
    database: Database, tmp_path: Path
) -> None:
    one = await recorder(database, tmp_path)
    made = await stored(
        database,
        tmp_path,
        state=JobState.QUEUED,
        credentials={"api_key_comfy_org": "comfyui-secret"},
    )
    (kept,) = await live(database, tmp_path)
    assert kept.content is None
    await one.load_content(kept)
    assert kept.credentials == {"api_key_comfy_org": "comfyui-secret"}
    made.state, made.cloud_id = JobState.SUBMITTED, "c"
    await one.save(made)
    (kept,) = await live(database, tmp_path)
    assert kept.credentials == {}
    assert b"comfyui-secret" not in on_disk(tmp_path)


async def test_what_was_sent_for_a_waiting_job_is_read_when_it_goes(
    database: Database, tmp_path: Path
) -> None:
    one = await recorder(database, tmp_path)
    await stored(database, tmp_path, state=JobState.QUEUED, graph={"1": {}}, targets=["1"])
    (kept,) = await live(database, tmp_path)
    with pytest.raises(NotLoadedError):
        _ = kept.graph
    await one.load_content(kept)
    assert (kept.graph, kept.targets) == ({"1": {}}, ["1"])


async def test_a_waiting_job_whose_content_is_damaged_says_so(
    database: Database, tmp_path: Path
) -> None:
    one = await recorder(database, tmp_path)
    await stored(database, tmp_path, state=JobState.QUEUED)
    (kept,) = await live(database, tmp_path)
    await database.write(
        lambda connection: connection.execute(update(job_payloads).values(graph=b"{"))
    )
    with pytest.raises(LocalError, match="submit it again"):
        await one.load_content(kept)
    assert kept.graph == {}


async def test_a_write_of_an_engine_that_has_lost_its_lease_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    late = await recorder(database, tmp_path, "late")
    made = await stored(database, tmp_path, state=JobState.QUEUED)
    await recorder(database, tmp_path, "new")
    made.to(JobState.SUBMITTING)
    with pytest.raises(FencedError):
        await late.save(made)
    assert not late.term.lasts
    with pytest.raises(FencedError):
        await late.end(made, RecordEnd("failed", {}, {"messages": []}, {}, 0, 1))
    (kept,) = await live(database, tmp_path)
    assert kept.state is JobState.QUEUED


async def test_what_could_not_be_written_is_written_later(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await recorder(database, tmp_path)
    made = await stored(database, tmp_path, state=JobState.QUEUED)
    made.to(JobState.SUBMITTING)
    with monkeypatch.context() as broken:

        async def refuse(*_: object, **__: object) -> None:
            raise StorageError("disk full")

        broken.setattr(database, "write", refuse)
        with pytest.raises(StorageError):
            await one.save(made)
    await one.flush()
    (kept,) = await live(database, tmp_path)
    assert kept.state is JobState.SUBMITTING


GRAPH = {"1": {"class_type": "KSampler", "inputs": {}}}


@dataclass
class FakeRunner:
    """A runner whose job is at the node that its tracker has heard of."""

    tracker: Tracker


@dataclass
class World:
    """An announcer with the engine of which it tells, and what is heard."""

    bus: EventBus = field(default_factory=EventBus)
    term: Term = field(default_factory=lambda: Term(Lease("engine", "one", 1), math.inf))
    jobs: dict[JobKey, Job] = field(default_factory=dict)
    followed: dict[JobKey, Job] = field(default_factory=dict)
    workers: dict[str, AccountWorker] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    heard: list[BusMessage] = field(default_factory=list)

    def __post_init__(self) -> None:
        account = Account("one", None, "", slots=Slots(1))  # type: ignore[arg-type]
        self.scheduler = Scheduler({"one": account}, Member, "jobs")
        self.recorder = SimpleNamespace(term=self.term)
        self.announcer = Announcer(self)  # type: ignore[arg-type]
        self.bus.subscribe("jobs.*", self.heard.append)

    def add(self, one: Job) -> Job:
        self.jobs[one.key] = one
        if one.state is JobState.QUEUED:
            self.scheduler.queue.add(one)
        return one

    def run(self, one: Job, node: str | None = "1") -> Job:
        tracker = Tracker(one.prompt_id, GRAPH)
        if node is not None:
            tracker.receive(EventReceived("executing", {"node": node}), 1)
        one.runner = FakeRunner(tracker)  # type: ignore[assignment]
        self.followed[one.key] = one
        return self.add(one)

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"comfy_cloud_proxy_{name}", labels)


@pytest.fixture
def world() -> World:
    return World()


def test_an_engine_whose_term_is_over_says_and_counts_nothing(world: World) -> None:
    one = world.run(job(state=JobState.RUNNING, accepted=True, account="one"))
    world.bus.subscribe(topic_of("anna", "c"), world.heard.append)
    world.term.end()
    world.announcer.changed(one)
    world.announcer.accepted(one)
    world.announcer.ended(one, "completed", 1.0)
    world.announcer.tell_running("anna", "c", "s")
    assert world.heard == []
    assert world.counted("jobs_accepted_total", member="anna") is None


def test_what_becomes_of_a_job_is_told_and_counted_once(world: World) -> None:
    one = job(accepted=True, account="one")
    world.announcer.accepted(one)
    world.announcer.ended(one, "completed", 2.0)
    world.announcer.discarded(job("two", accepted=False))
    assert [type(news) for news in world.heard] == [JobLeft, JobLeft]
    assert world.counted("jobs_accepted_total", member="anna") == 1
    ended = {"member": "anna", "account": "one"}
    assert world.counted("jobs_ended_total", **ended, outcome="completed") == 1
    assert world.counted("jobs_ended_total", **ended, outcome="withdrawn") is None


def test_why_a_job_waits_is_told_when_that_changes(world: World) -> None:
    one = world.add(job())
    for reason in ("no_credits", "no_credits", None):
        world.announcer.explain(one, reason)
    told = [news.job.reason for news in world.heard if isinstance(news, JobChanged)]
    assert told == ["no_credits", None]


@pytest.mark.parametrize(
    ("member", "client_id", "node"),
    [("anna", "c", "1"), ("anna", "d", None), ("ben", "c", None)],
)
def test_a_new_socket_hears_which_node_of_its_client_runs(
    world: World, member: str, client_id: str, node: str | None
) -> None:
    world.run(job("first", state=JobState.RUNNING), node="older")
    world.run(job("second", state=JobState.RUNNING))
    world.run(job("third", state=JobState.SUBMITTED), node=None)
    heard: list[Any] = []
    world.bus.subscribe(topic_of(member, client_id), heard.append)
    world.announcer.tell_running(member, client_id, "s")
    assert heard == ([] if node is None else [NodeRuns(member, client_id, "s", node)])


def test_how_many_go_before_is_told_when_that_changes(world: World) -> None:
    for at, (name, member) in enumerate([("a", "anna"), ("b", "ben"), ("c", "anna")]):
        world.add(job(name, member, order=at))
    for _ in range(2):
        world.announcer.note_ahead("ben", tell=True)
    world.scheduler.queue.remove(world.jobs[JobKey("anna", "a")])
    world.scheduler.queue.remove(world.jobs[JobKey("anna", "c")])
    world.announcer.note_ahead("ben", tell=True)
    assert world.heard == [JobsAhead("ben", 1, True), JobsAhead("ben", 0, True)]


async def test_who_has_missed_something_hears_of_all_jobs_that_clients_know(world: World) -> None:
    world.add(job("known", accepted=True))
    world.add(job("unknown", accepted=False, state=JobState.SUBMITTING))
    world.add(job("unclear", accepted=False, state=JobState.UNKNOWN))
    world.add(job("unwanted", accepted=True, cancel_requested=True, state=JobState.SUBMITTED))
    for _ in range(3):
        world.announcer.tell_all()
    await until(lambda: len(world.heard) >= 2)
    told = [news.job.prompt_id for news in world.heard if isinstance(news, JobChanged)]
    assert told == ["known", "unclear"]


def test_admins_see_what_runs_first_and_then_what_waits_in_its_turn(world: World) -> None:
    world.add(job("b", "ben", order=2, accepted=True))
    world.add(job("a", order=1, accepted=True))
    world.add(job("sent", state=JobState.SUBMITTING, accepted=True))
    world.run(job("runs", state=JobState.RUNNING, accepted=True, started_at=5))
    seen = world.announcer.overview(None).jobs
    assert [view.prompt_id for view in seen] == ["runs", "sent", "a", "b"]
    assert (seen[0].node, seen[0].node_type) == ("1", "KSampler")
    assert [(view.before, view.reason) for view in seen[2:]] == [(0, "slot"), (1, "turn")]
    assert [view.prompt_id for view in world.announcer.overview("ben").jobs] == ["b"]
