"""Jobs, payloads, history and fair shares, in each database."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databases import other_connection
from sqlalchemy import Connection, select

from proxy.storage.database import Database, FencedError
from proxy.storage.encryption import Cipher
from proxy.storage.files import FileRecord, FileRepository
from proxy.storage.jobs import (
    PAGE,
    DayFullError,
    EndedJob,
    HistoryEntry,
    JobLivesError,
    JobRepository,
    Numbering,
    Payload,
    QueueFullError,
    Share,
    Shares,
    StoredJob,
    add_history,
    add_payload,
)
from proxy.storage.leases import ENGINE, Fence, LeaseRepository
from proxy.storage.tables import job_payloads
from proxy.storage.usage import UsageRepository, UsageRow

PAYLOAD = Payload(b'{"1": {}}', b'{"a": 1}', b'["9"]')

PICTURE = FileRecord(
    "anna", "output", "x.png", "c", "output", None, None, "image/png", 1.0, "main", "a"
)


def job(id_: str = "a", member: str = "anna", **values: Any) -> StoredJob:
    values = {"state": "queued", "number": 0, "created_at": 1000, "changed_at": 1000, **values}
    return StoredJob(member=member, id=id_, **values)


def ended(state: str = "succeeded", at: int = 3000, **values: Any) -> EndedJob:
    return EndedJob(
        **{
            "state": state,
            "started_at": 2000,
            "ended_at": at,
            "summary": b'{"id": "a"}',
            "result": b'{"outputs": {}}',
            "outputs_to_execute": ["9"],
            **values,
        }
    )


@pytest.fixture
def jobs(database: Database) -> JobRepository:
    return JobRepository(database)


async def run(jobs: JobRepository, one: StoredJob, end: EndedJob | None = None) -> int:
    """A job that comes and ends."""
    key = (await jobs.insert(one, PAYLOAD)).key
    summary = one.id.encode(errors="replace")
    await jobs.finish(key, end or ended(summary=summary), keep=1000)
    return key


async def entries(jobs: JobRepository, **part: Any) -> list[HistoryEntry]:
    return [entry async for some in jobs.entries("anna", **part) for entry in some]


async def ids(jobs: JobRepository, **part: Any) -> list[str]:
    return [entry.id for entry in await entries(jobs, **part)]


# --- jobs that live ------------------------------------------------------------------------


async def test_a_job_comes_back_as_it_was_taken_in(jobs: JobRepository) -> None:
    one = job(
        number=2**80,
        client_id="\ud800 c",
        workflow_id="w",
        account="main",
        cloud_id="c1",
        started_at=5,
        outputs_to_execute=["9", "10"],
        watched=False,
        cancel_requested=True,
        charge=1.5,
        reason="no credits",
    )
    key = (await jobs.insert(one, PAYLOAD)).key
    assert await jobs.get("anna", "a") == replace(one, key=key)
    assert await jobs.payload(key) == PAYLOAD
    assert await jobs.payloads([key, 77]) == {key: PAYLOAD}


@pytest.mark.parametrize("number", [0, -1, 1.0, 0.5, -(2**90)])
async def test_a_number_keeps_its_kind(jobs: JobRepository, number: float) -> None:
    await jobs.insert(job(number=number), PAYLOAD)
    found = await jobs.get("anna", "a")
    assert found is not None
    assert (type(found.number), found.number) == (type(number), number)


async def test_keys_grow_and_are_never_used_again(jobs: JobRepository) -> None:
    first = (await jobs.insert(job("a"), PAYLOAD)).key
    second = (await jobs.insert(job("b"), PAYLOAD)).key
    await jobs.discard([second])
    third = (await jobs.insert(job("c"), PAYLOAD)).key
    assert first < second < third
    assert [one.id for one in await jobs.live()] == ["a", "c"]


async def test_an_id_that_lives_is_refused_and_nothing_written(jobs: JobRepository) -> None:
    await jobs.insert(job(), PAYLOAD)
    with pytest.raises(JobLivesError):
        await jobs.insert(job(number=5), PAYLOAD, usage=[UsageRow("2026-01-01", "anna", 1)])
    await jobs.insert(job(member="ben"), PAYLOAD)
    assert [(one.member, one.number) for one in await jobs.live()] == [("anna", 0), ("ben", 0)]
    assert [one.member for one in await jobs.live("ben")] == ["ben"]


async def test_of_many_with_one_id_at_once_one_is_taken_in(jobs: JobRepository) -> None:
    results = await asyncio.gather(
        *(jobs.insert(job(number=number), PAYLOAD) for number in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, StoredJob) for result in results) == 1


async def test_no_more_jobs_wait_or_are_submitted_a_day_than_may(
    jobs: JobRepository, database: Database
) -> None:
    usage = [UsageRow("2026-01-01", "anna", 1)]
    async with other_connection(database) as other:
        both = jobs, JobRepository(other)
        for limit, error in (
            ({"most_waiting": 3}, QueueFullError),
            ({"most_a_day": 5}, DayFullError),
        ):
            tries = await asyncio.gather(
                *(
                    both[number % 2].insert(
                        job(f"{error.__name__} {number}"), PAYLOAD, usage=usage, **limit
                    )
                    for number in range(12)
                ),
                return_exceptions=True,
            )
            refused = [one for one in tries if isinstance(one, BaseException)]
            assert all(isinstance(one, error) for one in refused)
            expected = {"most_waiting": 3, "most_a_day": 5 - 3}
            assert len(tries) - len(refused) == sum(expected[name] for name in limit)
        await jobs.insert(job(state="running"), PAYLOAD)
        await jobs.insert(job("b", member="ben"), PAYLOAD, usage=usage, most_waiting=1)
        assert await both[1].used("anna", "2026-01-01") == (5, 6)
        assert await both[1].used("anna", "2026-01-02") == (5, 0)


async def test_changes_are_written_and_the_rest_stays(jobs: JobRepository) -> None:
    one = job(client_id="c")
    key = (await jobs.insert(one, PAYLOAD)).key
    other = (await jobs.insert(job("b"), PAYLOAD)).key
    changes = {"state": "running", "started_at": 7, "outputs_to_execute": ["3"]}
    await jobs.update([(key, changes), (other, {"number": 9}), (12345, {"state": "running"})])
    found = await jobs.get("anna", "a")
    assert found == replace(one, key=key, state="running", started_at=7, outputs_to_execute=["3"])
    with pytest.raises(ValueError, match="no field"):
        await jobs.update([(key, {"colour": "red"})])


async def test_credentials_are_encrypted_until_they_are_sent(
    database: Database, tmp_path: Path
) -> None:
    jobs = JobRepository(database, Cipher(tmp_path / "credentials.key"))
    secret = b'{"api_key_comfy_org": "comfyui-123"}'
    key = (await jobs.insert(job(), replace(PAYLOAD, credentials=secret))).key
    stored = await database.read(
        lambda connection: connection.execute(select(job_payloads.c.credentials)).scalar_one()
    )
    assert b"comfyui-123" not in stored
    again = JobRepository(database, Cipher(tmp_path / "credentials.key"))
    found = await again.payload(key)
    assert found is not None
    assert found.credentials == secret
    other = await JobRepository(database, Cipher()).payload(key)
    assert other == PAYLOAD  # another secret: the job goes on without
    await jobs.update([], sent=[key])
    assert await jobs.payload(key) == PAYLOAD


async def test_a_discarded_job_leaves_no_trace(jobs: JobRepository, database: Database) -> None:
    key = (await jobs.insert(job(), PAYLOAD)).key
    await jobs.discard([key], usage=[UsageRow("2026-01-01", "anna", withdrawn=1)])
    assert await jobs.live() == []
    assert await jobs.payload(key) is None
    (row,) = await UsageRepository(database).days("2026-01-01", "2026-01-01")
    assert row.withdrawn == 1


# --- the end -------------------------------------------------------------------------------


async def test_an_end_is_one_unit_with_usage_and_shares(
    jobs: JobRepository, database: Database
) -> None:
    key = (await jobs.insert(job(number=3, cloud_id="c1"), PAYLOAD)).key
    before = database.units
    state = Shares(2.5, {"anna": Share(3.0, 10.0)}, {"main": 3})
    usage = [UsageRow("2026-01-01", "anna", completed=1, running_seconds=1.5)]
    assert await jobs.finish(key, ended(), keep=10, usage=usage, shares=state) == []
    assert database.units - before == 1
    assert await jobs.live() == []
    assert await jobs.entry("anna", "a") == HistoryEntry(
        key=key,
        member="anna",
        id="a",
        sequence=1,
        state="succeeded",
        number="3",
        created_at=1000,
        started_at=2000,
        ended_at=3000,
        outputs_to_execute='["9"]',
        summary=b'{"id": "a"}',
        result=b'{"outputs": {}}',
        graph=PAYLOAD.graph,
        extra_data=PAYLOAD.extra_data,
    )
    assert await jobs.load_shares() == state
    assert await UsageRepository(database).days("2026-01-01", "2026-01-01") == usage
    assert await jobs.knows(["c1", "c2"]) == {"c1"}


async def test_what_has_ended_since_is_told_with_its_client(jobs: JobRepository) -> None:
    await run(jobs, job("old"), ended(at=2999))
    key = await run(jobs, job("new", client_id="c"))
    await jobs.insert(job("lives"), PAYLOAD)
    assert await jobs.ended_since(3000) == [(key, "anna", "new", "c", 3000)]


async def test_the_jobs_without_an_answer_are_those_that_nobody_may_know_of(
    jobs: JobRepository,
) -> None:
    await jobs.insert(job("answered"), PAYLOAD)
    await jobs.insert(job("cancelled", accepted=False, cancel_requested=True), PAYLOAD)
    await jobs.insert(job("received", accepted=False, state="received"), PAYLOAD)
    assert [one.id for one in await jobs.unanswered()] == ["received"]


async def test_an_end_is_written_once(jobs: JobRepository, database: Database) -> None:
    key = (await jobs.insert(job(), PAYLOAD)).key
    usage = [UsageRow("2026-01-01", "anna", completed=1)]
    await jobs.finish(key, ended(), keep=10, usage=usage)
    await jobs.finish(key, ended("failed"), keep=10, usage=usage)
    assert [entry.state for entry in await entries(jobs)] == ["succeeded"]
    (row,) = await UsageRepository(database).days("2026-01-01", "2026-01-01")
    assert row.completed == 1


async def test_jobs_that_end_at_once_have_places_of_their_own(jobs: JobRepository) -> None:
    names = [f"j{number:03}" for number in range(2 * PAGE)]
    keys = [(await jobs.insert(job(name), PAYLOAD)).key for name in names]
    for start in range(0, len(keys), 8):
        some = keys[start : start + 8]
        await asyncio.gather(*(jobs.finish(key, ended(), keep=1000) for key in some))
    found = await entries(jobs)
    assert sorted(entry.id for entry in found) == names
    assert [entry.sequence for entry in found] == [*range(1, len(names) + 1)]


async def test_an_id_is_submitted_again_while_it_ends(jobs: JobRepository) -> None:
    numbering = Numbering(0)
    for _ in range(20):
        key = (await jobs.insert(job(), PAYLOAD, numbering=numbering)).key
        again = asyncio.create_task(jobs.insert(job(), PAYLOAD, numbering=numbering))
        await jobs.finish(key, ended(), keep=1000)
        with suppress(JobLivesError):
            await again
        for one in await jobs.live("anna"):
            await jobs.finish(one.key, ended(), keep=1000)
    assert await ids(jobs) == ["a"]


async def test_an_id_used_again_keeps_its_place(jobs: JobRepository) -> None:
    first = await run(jobs, job("a"))
    await run(jobs, job("b"))
    key = (await jobs.insert(job("a"), replace(PAYLOAD, graph=b"{}"))).key
    assert [entry.graph for entry in await entries(jobs)] == [PAYLOAD.graph] * 2
    await jobs.finish(key, ended("failed"), keep=10)
    found = await entries(jobs)
    assert [(one.id, one.state) for one in found] == [("a", "failed"), ("b", "succeeded")]
    assert found[0].graph == b"{}"
    assert await jobs.payload(first) is None


async def test_the_oldest_entries_go_with_their_files(
    jobs: JobRepository, database: Database
) -> None:
    files = FileRepository(database)
    kept = replace(PICTURE, path="up.png", job=None)
    await files.write(lambda unit: unit.put([PICTURE, kept]))
    await files.write(lambda unit: unit.put_given("anna", "a", "9", b"[]"))
    for one in "abcd":
        await run(jobs, job(one))
    key = (await jobs.insert(job("e"), PAYLOAD)).key
    assert sorted(await jobs.finish(key, ended(), keep=3)) == ["a", "b"]
    assert await ids(jobs) == ["c", "d", "e"]
    assert await files.read(lambda unit: unit.records("anna", "output")) == [kept]
    assert await files.read(lambda unit: unit.given("anna", "a", "9")) is None
    payloads = select(job_payloads.c.key)
    assert len(await database.read(lambda c: c.execute(payloads).all())) == 3


# --- the history ---------------------------------------------------------------------------


async def test_parts_of_the_history(jobs: JobRepository) -> None:
    for number in range(150):
        await run(jobs, job(str(number)))
    everything = [str(number) for number in range(150)]
    assert await ids(jobs) == everything
    assert await ids(jobs, last=3) == everything[-3:]
    assert await ids(jobs, last=1000) == everything
    assert await ids(jobs, last=0) == []
    assert await ids(jobs, offset=10, limit=100) == everything[10:110]
    assert await ids(jobs, offset=140, limit=100) == everything[140:]
    assert await ids(jobs, offset=140) == everything[140:]
    assert await ids(jobs, offset=150) == []
    assert await jobs.count_history() == await jobs.count_history("anna") == 150
    assert await jobs.count_history("ben") == 0


async def test_an_entry_of_somebody_else_is_not_there(jobs: JobRepository) -> None:
    await run(jobs, job("a", "ben"))
    assert await ids(jobs) == []
    assert await jobs.entry("anna", "a") is None
    entry = await jobs.entry("ben", "a")
    assert entry is not None
    assert entry.summary == b"a"


async def test_entries_are_forgotten_by_id_or_all(jobs: JobRepository, database: Database) -> None:
    files = FileRepository(database)
    await files.write(lambda unit: unit.put([PICTURE]))
    for one in ("a", "b", "c", "\ud800"):
        await run(jobs, job(one))
    await run(jobs, job("a", "ben"))
    assert await jobs.forget("anna", ["a", "nothing", "a"]) == ["a"]
    assert await ids(jobs) == ["b", "c", "\ud800"]
    kept = await files.read(lambda unit: unit.records("anna", "output"))
    assert kept == [PICTURE]  # as on a local ComfyUI
    assert sorted(await jobs.forget("anna")) == ["b", "c", "\ud800"]
    assert await ids(jobs) == []
    assert await jobs.forget("anna") == []
    assert await jobs.count_history() == 1


async def test_a_long_history_is_forgotten_whole(jobs: JobRepository, database: Database) -> None:
    def fill(connection: Connection) -> None:
        for key in range(1, 521):
            add_history(connection, job(str(key), key=key), ended())
            add_payload(connection, key, PAYLOAD)

    await database.write(fill, long=True)
    assert len(await jobs.forget("anna")) == 520
    assert await jobs.count_history() == 0


async def test_lists_have_live_and_ended_jobs_in_order(jobs: JobRepository) -> None:
    await run(jobs, job("old", created_at=1), ended(summary=b"old", at=2500))
    await run(jobs, job("new", created_at=5, workflow_id="w"), ended("failed", summary=b"new"))
    waiting = job("wait", created_at=3, workflow_id="w")
    waiting.key = (await jobs.insert(waiting, PAYLOAD)).key
    running = job("run", created_at=9, state="running", started_at=100)
    running.key = (await jobs.insert(running, PAYLOAD)).key

    async def listed(**query: Any) -> tuple[list[str], int]:
        page = await jobs.page("anna", **query)
        shown = [one.decode() if isinstance(one, bytes) else one.id for one in page.jobs]
        return shown, page.total

    assert await listed() == (["run", "new", "wait", "old"], 4)
    assert await listed(descending=False) == (["old", "wait", "new", "run"], 4)
    assert await listed(limit=2, offset=1) == (["new", "wait"], 4)
    assert await listed(offset=3) == (["old"], 4)
    assert await listed(limit=0) == ([], 4)
    assert await listed(states={"failed", "queued"}) == (["new", "wait"], 2)
    assert await listed(states=set()) == ([], 0)
    assert await listed(workflow_id="w") == (["new", "wait"], 2)
    assert await listed(by="duration") == (["new", "old", "wait", "run"], 4)
    assert (await jobs.page("anna", limit=1)).jobs == [running]


async def test_of_an_id_used_again_the_ended_job_is_listed(jobs: JobRepository) -> None:
    await run(jobs, job("a"))
    await jobs.insert(job("a"), PAYLOAD)
    assert (await jobs.page("anna")).jobs == [b"a"]


# --- the fence -----------------------------------------------------------------------------


async def test_a_writer_whose_lease_is_over_changes_nothing(
    jobs: JobRepository, database: Database
) -> None:
    leases = LeaseRepository(database)
    mine = await leases.acquire(ENGINE, "one", 60)
    assert mine is not None
    key = (await jobs.insert(job(), PAYLOAD, fence=mine.fence)).key
    theirs = await leases.acquire(ENGINE, "two", 60, alone=True)
    assert theirs is not None
    for write in (
        jobs.insert(job("b"), PAYLOAD, fence=mine.fence),
        jobs.update([(key, {"state": "running"})], fence=mine.fence),
        jobs.discard([key], fence=mine.fence),
        jobs.finish(key, ended(), keep=1, fence=mine.fence),
        jobs.update([], fence=Fence("nobody's", 1)),
    ):
        with pytest.raises(FencedError, match="another replica"):
            await write
    await jobs.update([(key, {"state": "running"})], fence=theirs.fence)
    assert [(one.id, one.state) for one in await jobs.live()] == [("a", "running")]
