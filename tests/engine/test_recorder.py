"""What the engine writes of a job and how often."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from jobs.samples import with_content
from sqlalchemy import Engine, event, update
from stack import Client, running_proxy
from storage.mute import Mute

from proxy.app import storage
from proxy.costs.budgets import Budget, Budgets
from proxy.costs.job_cost import Charge, JobCost
from proxy.engine import recorder as recorder_module
from proxy.engine.live_job import LiveJob
from proxy.engine.recorder import JobRecorder
from proxy.engine.term import Term
from proxy.jobs.conversion import payload_of, stored_of
from proxy.jobs.models import (
    JobEnd,
    JobState,
    NotLoadedError,
)
from proxy.simulator import Simulator
from proxy.storage.budget_notices import BudgetNoticeRepository
from proxy.storage.database import (
    Database,
    FencedError,
    OutcomeUnknownError,
    StorageError,
    ValueRefusedError,
)
from proxy.storage.encryption import Cipher
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, Lease, LeaseRepository
from proxy.storage.payloads import job_payloads
from proxy.storage.shares import Shares
from proxy.storage.webhooks import StoredWebhook, WebhookRepository
from proxy.translate.errors import LocalError


def received(**fields: Any) -> LiveJob:
    values: dict[str, Any] = {
        "prompt_id": "one",
        "member": "local",
        "number": 0,
        "client_id": None,
        "created_at": 0,
        **fields,
    }
    return LiveJob(**with_content(values))


async def recorder(database: Database, folder: Path, holder: str = "one") -> JobRecorder:
    """That of an engine whose term begins."""
    repository = JobRepository(database, Cipher(folder / "credentials.key"))
    lease = await LeaseRepository(database).acquire(ENGINE, holder, 60, alone=True)
    assert lease is not None
    return JobRecorder(repository, Term(lease), history_size=10)


async def stored(database: Database, folder: Path, **fields: Any) -> LiveJob:
    """A job that the api has put into the storage."""
    made = received(**fields)
    repository = JobRepository(database, Cipher(folder / "credentials.key"))
    made.order = (await repository.insert(stored_of(made), payload_of(made.loaded))).order
    return made


async def live(database: Database, folder: Path) -> list[LiveJob]:
    """What another start finds."""
    repository = JobRepository(database, Cipher(folder / "credentials.key"))
    jobs, _ = await JobRecorder(repository, Term(Lease("", "", 0)), history_size=10).load()
    return jobs


async def settled_commits(database: Database) -> int:
    """How many there have been, when in many turns of the loop none has come."""
    before, commits = -1, database.commits
    while before != commits:
        for _ in range(30):
            await asyncio.sleep(0.01)
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
    options: dict[str, Any] = {"audit_days": 0, "prefetch": "off"}
    async with running_proxy(simulator, tmp_path, **options) as proxy:
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
    job_recorder = await recorder(database, tmp_path)
    made = await stored(
        database, tmp_path, state=JobState.SUBMITTING, account="main", graph={"1": {}}
    )
    commits = database.commits
    made.cloud_id = "c"
    made.state = JobState.SUBMITTED
    job_recorder.changed(made)
    made.started_at = 5
    made.state = JobState.RUNNING
    job_recorder.changed(made)
    await job_recorder.flush()
    assert database.commits == commits + 1
    (kept,) = await live(database, tmp_path)
    assert (kept.state, kept.cloud_id, kept.started_at) == (JobState.RUNNING, "c", 5)
    assert kept.graph == {"1": {}}
    assert kept.order == made.order


async def test_what_is_read_at_a_start_takes_few_units_however_many_jobs_run(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = {"1": {"text": "x" * 500_000}}
    for number in range(30):
        fields = {"prompt_id": str(number), "order": 0, "graph": {"1": {"number": number}}}
        await stored(database, tmp_path, state=JobState.RUNNING, **fields)
    for name in "abc":
        await stored(database, tmp_path, state=JobState.RUNNING, prompt_id=name, graph=graph)
    read, units = database.read, 0

    async def counted(work: Any) -> Any:
        nonlocal units
        units += 1
        return await read(work)

    monkeypatch.setattr(database, "read", counted)
    monkeypatch.setattr(recorder_module, "_MAX_CONTENT_BYTES", 1_200_000)
    jobs = await live(database, tmp_path)
    assert [job.graph["1"].get("number") for job in jobs] == [*range(30), None, None, None]
    assert units == 5  # the jobs, the sizes, two for what was sent, the fair shares


async def test_shares_are_written_again_where_it_is_unknown_which_are_stored(
    database: Database, tmp_path: Path
) -> None:
    job_recorder = await recorder(database, tmp_path)
    made = await stored(database, tmp_path)
    shares = iter([Shares(1.0), Shares(2.0), Shares(1.0)])
    job_recorder.shares = lambda _: next(shares)
    await job_recorder.save(made)
    mute = job_recorder.jobs.database = Mute(database)
    mute.is_mute = True
    with pytest.raises(OutcomeUnknownError):
        await job_recorder.save(made)
    mute.is_mute = False
    await job_recorder.flush()
    assert await job_recorder.jobs.load_shares() == Shares(1.0)


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("proxy.db*"))


async def test_credentials_are_kept_encrypted_until_the_job_is_sent(
    database: Database, tmp_path: Path
) -> None:
    job_recorder = await recorder(database, tmp_path)
    made = await stored(
        database,
        tmp_path,
        state=JobState.QUEUED,
        credentials={"api_key_comfy_org": "comfyui-secret"},
    )
    (kept,) = await live(database, tmp_path)
    assert kept.content is None
    await job_recorder.load_content(kept)
    assert kept.loaded.credentials == {"api_key_comfy_org": "comfyui-secret"}
    made.state, made.cloud_id = JobState.SUBMITTED, "c"
    await job_recorder.save(made)
    (kept,) = await live(database, tmp_path)
    assert kept.loaded.credentials == {}
    assert b"comfyui-secret" not in on_disk(tmp_path)


async def test_what_was_sent_for_a_waiting_job_is_read_when_it_goes(
    database: Database, tmp_path: Path
) -> None:
    job_recorder = await recorder(database, tmp_path)
    await stored(database, tmp_path, state=JobState.QUEUED, graph={"1": {}}, targets=["1"])
    (kept,) = await live(database, tmp_path)
    with pytest.raises(NotLoadedError):
        _ = kept.graph
    await job_recorder.load_content(kept)
    assert (kept.graph, kept.loaded.targets) == ({"1": {}}, ["1"])


async def test_a_waiting_job_whose_content_is_damaged_says_so(
    database: Database, tmp_path: Path
) -> None:
    job_recorder = await recorder(database, tmp_path)
    await stored(database, tmp_path, state=JobState.QUEUED)
    (kept,) = await live(database, tmp_path)
    await database.write(
        lambda connection: connection.execute(update(job_payloads).values(graph=b"{"))
    )
    with pytest.raises(LocalError, match="submit it again"):
        await job_recorder.load_content(kept)
    assert kept.graph == {}


async def test_a_waiting_job_that_was_taken_out_of_the_storage_is_gone(
    database: Database, tmp_path: Path
) -> None:
    job_recorder = await recorder(database, tmp_path)
    await stored(database, tmp_path, state=JobState.QUEUED)
    (kept,) = await live(database, tmp_path)
    await job_recorder.jobs.discard([kept.order])
    assert await job_recorder.load_content(kept) is False


async def test_a_write_of_an_engine_that_has_lost_its_lease_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    late = await recorder(database, tmp_path, "late")
    made = await stored(database, tmp_path, state=JobState.QUEUED)
    await recorder(database, tmp_path, "new")
    made.state = JobState.SUBMITTING
    with pytest.raises(FencedError):
        await late.save(made)
    assert not late.term.lasts
    with pytest.raises(FencedError):
        await late.end(made, JobEnd("failed", {}, {"messages": []}, {}, 0, 1))
    (kept,) = await live(database, tmp_path)
    assert kept.state is JobState.QUEUED


async def test_nothing_is_written_after_the_term_although_no_other_has_begun(
    database: Database, tmp_path: Path
) -> None:
    """What is decided then is told to nobody."""
    job = await stored(database, tmp_path)
    records = await recorder(database, tmp_path)
    records.term.until = -math.inf
    job.accepted = True
    with pytest.raises(FencedError):
        await records.save(job)
    (kept,) = await live(database, tmp_path)
    assert not kept.accepted


async def test_what_could_not_be_written_is_written_later(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_recorder = await recorder(database, tmp_path)
    made = await stored(database, tmp_path, state=JobState.QUEUED)
    made.state = JobState.SUBMITTING
    with monkeypatch.context() as broken:

        async def refuse(*_: object, **__: object) -> None:
            raise StorageError("disk full")

        broken.setattr(database, "write", refuse)
        with pytest.raises(StorageError):
            await job_recorder.save(made)
    await job_recorder.flush()
    (kept,) = await live(database, tmp_path)
    assert kept.state is JobState.SUBMITTING


class Counted:
    """The statements that a database runs from now on."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    def note(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.statements.append(statement)


async def test_where_nobody_listens_an_end_runs_no_statement_for_webhooks(
    database: Database, tmp_path: Path
) -> None:
    job_recorder = await recorder(database, tmp_path)
    counted = Counted()
    for wanted in ([], ["job.completed"]):
        job_recorder.outbox.wanted = frozenset(wanted)
        made = await stored(database, tmp_path, prompt_id=f"{wanted}", state=JobState.SUBMITTED)
        made.state = JobState.RUNNING
        job_recorder.changed(made)
        event.listen(Engine, "before_cursor_execute", counted.note)
        try:
            end = JobEnd("completed", {}, {"messages": []}, {}, 1, 2)
            await job_recorder.end(made, end)
        finally:
            event.remove(Engine, "before_cursor_execute", counted.note)
        assert counted.statements
        about = [statement for statement in counted.statements if "webhook" in statement]
        assert bool(about) is bool(wanted)


async def test_a_start_is_announced_with_the_write_of_its_state_or_with_the_end(
    database: Database, tmp_path: Path
) -> None:
    webhooks = WebhookRepository(database)
    types = b'["job.started", "job.completed"]'
    await webhooks.add(StoredWebhook("w", "local", "http://h/", types, b"", 0), limit=9)
    job_recorder = await recorder(database, tmp_path)
    end = JobEnd("completed", {}, {"messages": []}, {}, 1, 2)

    async def delivered() -> list[str]:
        return sorted(delivery.type for delivery in await webhooks.log("w", 9))

    for flushed in (True, False):
        made = await stored(database, tmp_path, prompt_id=f"{flushed}", state=JobState.SUBMITTED)
        before = await delivered()
        made.state = JobState.RUNNING
        job_recorder.changed(made)
        job_recorder.started(made)
        assert await delivered() == before
        if flushed:
            await job_recorder.flush()
            assert await delivered() == [*before, "job.started"]
        await job_recorder.end(made, end)
        assert await delivered() == sorted([*before, "job.started", "job.completed"])
    await job_recorder.flush()
    assert len(await delivered()) == 4


class DelayedUpdates(JobRepository):
    """Writes changes of jobs once they are `released`, or fails then."""

    def __init__(self, database: Database, *, fails: bool) -> None:
        super().__init__(database)
        self.waiting, self.released = asyncio.Event(), asyncio.Event()
        self.fails = fails

    async def update(self, *args: Any, **options: Any) -> set[int]:
        self.waiting.set()
        await self.released.wait()
        if self.fails:
            raise StorageError("the connection was reset")
        return await super().update(*args, **options)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_start_is_announced_if_the_end_is_written_before_it(
    database: Database, tmp_path: Path, fails: bool
) -> None:
    webhooks = WebhookRepository(database)
    types = b'["job.started", "job.completed"]'
    await webhooks.add(StoredWebhook("w", "local", "http://h/", types, b"", 0), limit=9)
    job_recorder = await recorder(database, tmp_path)
    job_recorder.jobs = jobs = DelayedUpdates(database, fails=fails)
    made = await stored(database, tmp_path, state=JobState.SUBMITTED)
    made.state = JobState.RUNNING
    job_recorder.changed(made)
    job_recorder.started(made)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(job_recorder.close())
        await jobs.waiting.wait()
        await job_recorder.end(made, JobEnd("completed", {}, {"messages": []}, {}, 1, 2))
        jobs.released.set()
    sent = sorted(delivery.type for delivery in await webhooks.log("w", 9))
    assert sent == ["job.completed", "job.started"]


async def test_a_budget_is_noted_with_the_end_that_brings_it_there_and_no_other(
    database: Database, tmp_path: Path
) -> None:
    notices = BudgetNoticeRepository(database)
    job_recorder = await recorder(database, tmp_path)
    budgets = Budgets(
        (
            Budget("credits_per_day", "day", 10_000_000, hard=True),
            Budget("soft_credits_per_month", "month", 5_000_000, hard=False),
        )
    )
    job_recorder.budgets = lambda _: budgets
    noted: list[list[tuple[str, str]]] = []
    for number, cost in enumerate((3_999_999, 1, 1_000_000, 3_000_000, 1_999_999, 1)):
        made = await stored(database, tmp_path, prompt_id=f"{number}", state=JobState.RUNNING)
        whole = JobCost((Charge("", "estimated", cost),))
        job_recorder.outbox.budgets.clear()
        await job_recorder.end(
            made, JobEnd("completed", {}, {"messages": []}, {}, 1, 2, cost=whole)
        )
        found = [(notice.budget, notice.stage) for notice in await notices.unsent()]
        new = sorted(set(found).difference(*noted))
        assert job_recorder.outbox.budgets.is_set() is bool(new)
        noted.append(new)
    assert noted == [
        [],
        [("soft_credits_per_month", "near")],
        [("soft_credits_per_month", "reached")],
        [("credits_per_day", "near")],
        [],
        [("credits_per_day", "reached")],
    ]


async def test_a_write_that_is_refused_tells_nothing_until_it_is_repeated(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhooks = WebhookRepository(database)
    await webhooks.add(
        StoredWebhook("w", "local", "http://h/", b'["job.started"]', b"", 0), limit=9
    )
    job_recorder = await recorder(database, tmp_path)
    made = await stored(database, tmp_path, state=JobState.RUNNING)
    job_recorder.changed(made)
    job_recorder.started(made)
    with monkeypatch.context() as patch:
        patch.setattr(job_recorder.jobs, "update", refused)
        with pytest.raises(StorageError):
            await job_recorder.flush()
    assert await webhooks.log("w", 9) == []
    await job_recorder.flush()
    assert len(await webhooks.log("w", 9)) == 1


async def refused(*_: Any, **__: Any) -> None:
    raise StorageError("the disk is full")


async def test_a_job_that_the_database_does_not_take_keeps_no_other_from_being_written(
    database: Database, tmp_path: Path
) -> None:
    writer = await recorder(database, tmp_path)
    jobs = [received(prompt_id=f"job-{number}") for number in range(3)]
    for job in jobs:
        stored = await writer.jobs.insert(stored_of(job), payload_of(job.loaded))
        job.order, job.state = stored.order, JobState.QUEUED
        writer.changed(job)
    jobs[1].started_at = 2**70
    assert await writer.save(jobs[0])
    assert [row.state for row in await writer.jobs.live()] == ["queued", "received", "queued"]
    with pytest.raises(ValueRefusedError):
        await writer.save(jobs[1])
    jobs[1].started_at = 1
    assert await writer.save(jobs[1])
