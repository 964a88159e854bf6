"""Entries of the history, in order, forgotten, listed and searched, in each database."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, select
from storage.samples import PAYLOAD, ended, entries, ids, job, run

from proxy.storage.database import Database
from proxy.storage.file_tables import FileRecord
from proxy.storage.files import FileRepository
from proxy.storage.history import HistoryRepository, add_history
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import add_payload, job_payloads

PICTURE = FileRecord(
    "anna", "output", "x.png", "c", "output", None, None, "image/png", 1.0, "main", "a"
)


@pytest.fixture
def jobs(database: Database) -> JobRepository:
    return JobRepository(database)


# --- entries -------------------------------------------------------------------------------


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


async def test_an_entry_of_somebody_else_is_not_there(jobs: JobRepository) -> None:
    await run(jobs, job("a", "ben"))
    assert await ids(jobs) == []
    assert await jobs.history.entry("anna", "a") is None
    entry = await jobs.history.entry("ben", "a")
    assert entry is not None
    assert entry.summary == b"a"


async def test_entries_are_forgotten_by_id_or_all(jobs: JobRepository, database: Database) -> None:
    files = FileRepository(database)
    await files.write(lambda unit: unit.put([PICTURE]))
    for prompt_id in ("a", "b", "c", "\ud800"):
        await run(jobs, job(prompt_id))
    await run(jobs, job("a", "ben"))
    assert await jobs.history.forget("anna", ["a", "nothing", "a"]) == ["a"]
    assert await ids(jobs) == ["b", "c", "\ud800"]
    kept = await files.read(lambda unit: unit.records("anna", "output"))
    assert kept == [PICTURE]  # as on a local ComfyUI
    assert sorted(await jobs.history.forget("anna")) == ["b", "c", "\ud800"]
    assert await ids(jobs) == []
    assert await jobs.history.forget("anna") == []
    assert await jobs.history.entry("ben", "a") is not None


async def test_a_long_history_is_forgotten_whole(jobs: JobRepository, database: Database) -> None:
    def fill(connection: Connection) -> None:
        for order in range(1, 521):
            add_history(connection, ended(job(str(order), order=order)))
            add_payload(connection, "anna", order, PAYLOAD)

    await database.write(fill, long=True)
    assert len(await jobs.history.forget("anna")) == 520
    assert await ids(jobs) == []


async def test_an_id_used_again_keeps_its_place(jobs: JobRepository) -> None:
    first = await run(jobs, job("a"))
    await run(jobs, job("b"))
    again = await jobs.insert(job("a"), replace(PAYLOAD, graph=b"{}"))
    assert [entry.graph for entry in await entries(jobs)] == [PAYLOAD.graph] * 2
    await jobs.finish(ended(again, "failed"), keep=10)
    found = await entries(jobs)
    assert [(entry.prompt_id, entry.state) for entry in found] == [
        ("a", "failed"),
        ("b", "succeeded"),
    ]
    assert found[0].graph == b"{}"
    assert await jobs.payloads.get(first) is None


async def test_the_oldest_entries_go_with_their_files(
    jobs: JobRepository, database: Database
) -> None:
    files = FileRepository(database)
    kept = replace(PICTURE, path="up.png", job=None)
    await files.write(lambda unit: unit.put([PICTURE, kept]))
    await files.write(lambda unit: unit.put_given("anna", "a", "9", b"[]"))
    for prompt_id in "abcd":
        await run(jobs, job(prompt_id))
    last = await jobs.insert(job("e"), PAYLOAD)
    recorded = await jobs.finish(ended(last), keep=3)
    assert sorted(recorded.forgotten) == ["a", "b"]
    assert await ids(jobs) == ["c", "d", "e"]
    assert await files.read(lambda unit: unit.records("anna", "output")) == [kept]
    assert await files.read(lambda unit: unit.given("anna", "a", "9")) is None
    payloads = select(job_payloads.c.order)
    assert len(await database.read(lambda c: c.execute(payloads).all())) == 3


async def test_a_job_is_in_the_history_when_it_has_ended(jobs: JobRepository) -> None:
    lives = (await jobs.insert(job("b"), PAYLOAD)).order
    assert await jobs.history.has(await run(jobs, job("a")))
    assert not await jobs.history.has(lives)


async def test_the_history_knows_the_newest_ids_on_the_cloud(jobs: JobRepository) -> None:
    await jobs.insert(job("lives", cloud_id="c0"), PAYLOAD)
    for name, cloud_id in (("a", "c1"), ("b", ""), ("c", "c2"), ("d", "c3")):
        await run(jobs, job(name), cloud_id=cloud_id)
    assert await jobs.history.newest_cloud_ids(2) == ["c3", "c2"]
    assert await jobs.history.newest_cloud_ids(9) == ["c3", "c2", "c1"]


# --- lists ---------------------------------------------------------------------------------


async def test_lists_are_filtered_and_in_order(jobs: JobRepository) -> None:
    await run(jobs, job("old", created_at=1), summary=b"old", at=2500)
    await run(jobs, job("new", created_at=5, workflow_id="w"), state="failed", summary=b"new")
    await run(jobs, job("same", created_at=5), summary=b"same", at=2600)
    await run(jobs, job("other", "ben"), summary=b"other")
    await jobs.insert(job("lives"), PAYLOAD)

    async def listed(**query: Any) -> tuple[list[str], int]:
        query = {"states": {"succeeded", "failed", "cancelled"}, **query}
        found, total = await jobs.history.summaries("anna", **query)
        return [summary.decode() for summary in found], total

    assert await listed() == (["new", "same", "old"], 3)
    assert await listed(descending=False) == (["old", "new", "same"], 3)
    assert await listed(limit=2) == (["new", "same"], 3)
    assert await listed(limit=0) == ([], 3)
    assert await listed(states={"failed"}) == (["new"], 1)
    assert await listed(states=set()) == ([], 0)
    assert await listed(workflow_id="w") == (["new"], 1)
    assert await listed(by="duration") == (["new", "same", "old"], 3)
    assert await listed(by="duration", limit=1, descending=False) == (["old"], 3)


# --- searches ------------------------------------------------------------------------------

JOBS = (
    ("anna", "a1", "flux-dev", "succeeded", 1000),
    ("ben", "b1", "SDXL base", "failed", 2000),
    ("anna", "a2", "50%_off", "cancelled", 2000),
    ("ben", "b2", "flux-dev", "succeeded", 3000),
)


@pytest.fixture
async def history(jobs: JobRepository) -> HistoryRepository:
    for member, id_, label, state, at in JOBS:
        end = {"state": state, "at": at, "started_at": at - 100, "summary": b'{"id": 1}'}
        one = job(id_, member, created_at=at - 500, label=label)
        await run(jobs, one, **end, details=b'{"account": "main"}')
    return jobs.history


async def test_the_newest_come_first_one_page_behind_the_other(history: HistoryRepository) -> None:
    found, before = [], None
    while page := await history.search(None, before=before, limit=1):
        found += [row.prompt_id for row in page]
        before = page[-1].ended_at, page[-1].order
    assert found == ["b2", "a2", "b1", "a1"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"member": "anna"}, ["a2", "a1"]),
        ({"member": "nobody"}, []),
        ({"member": None, "states": {"failed", "cancelled"}}, ["a2", "b1"]),
        ({"member": None, "text": "FLUX"}, ["b2", "a1"]),
        ({"member": None, "text": "%_"}, ["a2"]),
        ({"member": "anna", "text": "flux"}, ["a1"]),
        ({"member": None, "text": "b1"}, ["b1"]),
        ({"member": None, "text": "\x00"}, []),
    ],
)
async def test_pages_are_filtered_and_searched(
    history: HistoryRepository, query: dict[str, Any], found: list[str]
) -> None:
    assert [row.prompt_id for row in await history.search(**query, limit=9)] == found


async def test_a_job_with_its_label_and_details(history: HistoryRepository) -> None:
    row = await history.listed("ben", "b1")
    assert row is not None
    assert (row.label, row.state, row.created_at, row.started_at, row.ended_at) == (
        "SDXL base",
        "failed",
        1500,
        1900,
        2000,
    )
    assert (row.summary, row.details) == (b'{"id": 1}', b'{"account": "main"}')
    assert await history.listed("anna", "b1") is None
