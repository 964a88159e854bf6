"""A member's queue and history, as clients poll them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from backend import open_database

from proxy.bus.memory import MemoryBus
from proxy.jobs.clients import Clients
from proxy.jobs.election import Term
from proxy.jobs.listing import JobQuery
from proxy.jobs.models import Job, JobState
from proxy.jobs.protocol import HistoryChanged, JobChanged, JobLeft
from proxy.jobs.recorder import JobRecorder
from proxy.jobs.rows import live_of, payload_of, stored_of
from proxy.jobs.service import JobService
from proxy.jobs.tracker import RecordEnd
from proxy.storage.jobs import JobRepository
from proxy.storage.leases import ENGINE, LeaseRepository
from proxy.supervisor import Supervisor

MEMBER = "local"


def new(prompt_id: str, number: float = 0, **fields: Any) -> Job:
    values: dict[str, Any] = {
        "member": MEMBER,
        "graph": {"1": {"class_type": "X"}},
        "extra_data": {"client_id": "c"},
        "targets": None,
        "client_id": "c",
        "create_time": 1000,
        "outputs_to_execute": ["1"],
        "state": JobState.QUEUED,
        **fields,
    }
    return Job(prompt_id=prompt_id, number=number, **values)


@dataclass
class Room:
    """The api's side, and what an engine would do."""

    service: JobService
    bus: MemoryBus
    recorder: JobRecorder
    repository: JobRepository
    count: int = 1000

    def put(self, job: Job) -> Job:
        if not job.order:
            self.count += 1
            job.order = self.count
            self.service._live.keep_sent(job.order, payload_of(job))
        self.bus.publish(f"jobs.{MEMBER}", JobChanged(live_of(job)))
        return job

    def remove(self, job: Job) -> None:
        self.bus.publish(f"jobs.{MEMBER}", JobLeft(live_of(job)))

    async def end(
        self, prompt_id: str, created: int = 1000, took: int = 5, tell: bool = True, **outputs: Any
    ) -> Job:
        job = new(prompt_id, create_time=created)
        job.order = (await self.repository.insert(stored_of(job), payload_of(job))).key
        status = {"status_str": "success", "completed": True, "messages": []}
        end = RecordEnd("completed", outputs, status, {}, created, created + took)
        await self.recorder.end(job, end)
        if tell:
            self.bus.publish(f"jobs.{MEMBER}", HistoryChanged(MEMBER, prompt_id))
        return job

    async def history(self, max_items: int | None = None, offset: int | None = None) -> bytes:
        body = await self.service.history.json(MEMBER, max_items=max_items, offset=offset)
        return body if isinstance(body, bytes) else b"".join([piece async for piece in body])

    async def entry(self, prompt_id: str) -> bytes:
        return await self.service.history.entry_json(MEMBER, prompt_id)

    async def listed(self, query: JobQuery) -> dict[str, Any]:
        return await self.service.list_jobs(MEMBER, query)


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    database = await open_database(tmp_path)
    repository, bus, supervisor = JobRepository(database), MemoryBus(), Supervisor()
    lease = await LeaseRepository(database).acquire(ENGINE, "test", 60)
    assert lease is not None
    recorder = JobRecorder(repository, Term(lease), history_size=10_000)
    service = JobService(bus, repository, clients=Clients(), supervisor=supervisor)
    yield Room(service, bus, recorder, repository)
    await supervisor.close()
    await recorder.close()
    await database.close()


@pytest.fixture
async def full(room: Room) -> Room:
    for number, prompt_id in enumerate("abcd"):
        await room.end(prompt_id, 1000 + number, took=10 - number)
    return room


@pytest.mark.parametrize(
    ("max_items", "offset", "expected"),
    [
        (None, None, "abcd"),
        (2, None, "cd"),
        (1, None, "d"),
        (0, None, ""),
        (10, None, "abcd"),
        (-1, None, ""),
        (2, 0, "ab"),
        (2, 1, "bc"),
        (0, 0, "a"),
        (None, 2, "cd"),
        (None, 9, ""),
        (None, -1, "abcd"),
        (1, -2, "d"),
    ],
)
async def test_history_is_cut_as_comfyui_cuts_it(
    full: Room, max_items: int | None, offset: int | None, expected: str
) -> None:
    assert "".join(json.loads(await full.history(max_items, offset))) == expected


async def test_the_queue_is_shown_in_comfyuis_tuples(room: Room) -> None:
    room.put(new("late", 7))
    room.put(new("first", -1))
    room.put(new("running", 3, state=JobState.RUNNING, started_at=1))
    shown = json.loads(await room.service.queue_json(MEMBER))
    item = [3, "running", {"1": {"class_type": "X"}}, {"client_id": "c"}, ["1"]]
    assert shown["queue_running"] == [item]
    assert [entry[1] for entry in shown["queue_pending"]] == ["first", "late"]


async def test_the_queue_is_written_once_until_it_changes(room: Room) -> None:
    job = room.put(new("a"))
    before = await room.service.queue_json(MEMBER)
    assert await room.service.queue_json(MEMBER) is before
    room.remove(job)
    assert await room.service.queue_json(MEMBER) != before


async def test_an_unknown_or_running_job_has_no_history(room: Room) -> None:
    room.put(new("a"))
    assert await room.entry("a") == await room.entry("b") == b"{}"


async def test_between_its_end_and_leaving_the_queue_a_job_is_in_both(room: Room) -> None:
    room.put(new("a"))
    await room.end("a")
    assert b'"a"' in await room.service.queue_json(MEMBER)
    assert b'"a"' in await room.history()
    jobs = (await room.listed(JobQuery()))["jobs"]
    assert [job["status"] for job in jobs] == ["completed"]


async def test_an_id_used_again_keeps_its_place(full: Room) -> None:
    before = await full.entry("b")
    await full.end("b", 9000, **{"1": {"images": []}})
    assert "".join(json.loads(await full.history())) == "abcd"
    assert await full.entry("b") != before


async def test_jobs_are_listed_newest_first_with_the_fields_of_comfyui(full: Room) -> None:
    full.put(new("live", 12, create_time=9000))
    answer = await full.listed(JobQuery(limit=2))
    assert [job["id"] for job in answer["jobs"]] == ["live", "d"]
    assert answer["pagination"] == {"offset": 0, "limit": 2, "total": 5, "has_more": True}
    assert answer["jobs"][0] == {
        "id": "live",
        "status": "pending",
        "priority": 12,
        "create_time": 9000,
        "outputs_count": 0,
    }
    assert answer["jobs"][1] == {
        "id": "d",
        "status": "completed",
        "priority": 0,
        "create_time": 1003,
        "execution_start_time": 1003,
        "execution_end_time": 1010,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (JobQuery(statuses=frozenset({"pending"})), ""),
        (JobQuery(sort_by="execution_duration", descending=False), "dcba"),
        (JobQuery(descending=False, offset=1, limit=2), "bc"),
        (JobQuery(offset=9), ""),
        (JobQuery(workflow_id="w"), ""),
    ],
)
async def test_jobs_are_chosen_and_ordered(full: Room, query: JobQuery, expected: str) -> None:
    assert "".join(job["id"] for job in (await full.listed(query))["jobs"]) == expected


async def test_the_preview_is_the_first_saved_file(room: Room) -> None:
    temp = {"filename": "t.png", "subfolder": "", "type": "temp"}
    saved = {"filename": "s.png", "subfolder": "", "type": "output"}
    await room.end("a", **{"1": {"images": [temp]}, "2": {"images": [saved], "animated": [True]}})
    summary = await room.service.job(MEMBER, "a")
    assert summary is not None
    assert summary["outputs_count"] == 2
    assert summary["preview_output"] == {**saved, "nodeId": "2", "mediaType": "images"}


async def test_a_workflow_is_found_by_its_id(room: Room) -> None:
    workflow = {"extra_pnginfo": {"workflow": {"id": "w"}}}
    room.put(new("a", extra_data=workflow))
    room.put(new("b", extra_data={"extra_pnginfo": None}))
    jobs = (await room.listed(JobQuery(workflow_id="w")))["jobs"]
    assert [job["id"] for job in jobs] == ["a"]


async def test_a_job_in_detail_has_what_was_sent_and_what_came(full: Room) -> None:
    full.put(new("live"))
    live, done = [await full.service.job(MEMBER, one) for one in ("live", "a")]
    assert live is not None
    assert live["workflow"] == {
        "prompt": {"1": {"class_type": "X"}},
        "extra_data": {"client_id": "c"},
    }
    assert done is not None
    assert {"outputs", "execution_status", "workflow"} <= set(done)
    assert await full.service.job(MEMBER, "none") is None


async def test_a_long_history_comes_in_pieces_and_is_not_kept(room: Room) -> None:
    text = "x" * 20_000
    for number in range(150):
        await room.end(f"job-{number:03}", **{"1": {"text": [text]}})
    body = await room.service.history.json(MEMBER, max_items=None, offset=None)
    assert not isinstance(body, bytes)
    pieces = [piece async for piece in body]
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 2_000_000
    assert list(json.loads(b"".join(pieces))) == [f"job-{number:03}" for number in range(150)]
    again = await room.service.history.json(MEMBER, max_items=None, offset=None)
    assert not isinstance(again, bytes)


async def test_a_history_that_changes_while_it_is_read_is_not_kept(
    full: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = full.service._repository.entry

    async def read_slowly(member: str, prompt_id: str) -> Any:
        entry = await read(member, prompt_id)
        monkeypatch.undo()
        await full.end(prompt_id, 9000, **{"1": {"images": []}})
        return entry

    monkeypatch.setattr(full.service._repository, "entry", read_slowly)
    before = await full.entry("a")
    assert await full.entry("a") != before


async def test_who_has_seen_an_entry_finds_it_in_the_list_before_the_bus_tells_of_it(
    room: Room,
) -> None:
    assert await room.history() == b"{}"
    await room.end("a", tell=False)
    assert "a" in json.loads(await room.entry("a"))
    assert "a" in json.loads(await room.history())
    await room.end("b", tell=False)
    assert await room.service.job(MEMBER, "b") is not None
    assert "b" in json.loads(await room.history())
