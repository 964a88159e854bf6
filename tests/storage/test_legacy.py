"""The records of version 0.1.0: migrated whole, once, or refused with a sentence.

`data-0.1.0.tar.gz` is a data folder that 0.1.0 has left when it was killed with four jobs under
way, `data-0.1.0.json` what its clients had been told just before.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.storage.database import FILE, Database
from proxy.storage.files import FileRepository, FileUnit
from proxy.storage.jobs import JobRepository, Payload, Share, Shares, StoredJob
from proxy.storage.legacy import KEPT, LegacyError, take_over
from proxy.storage.members import MemberRepository
from proxy.storage.start import open_folder
from proxy.storage.usage import UsageRepository, UsageRow
from proxy.translate import codec
from proxy.translate.names import Place

HERE = Path(__file__).parent
TOLD = json.loads((HERE / "data-0.1.0.json").read_bytes())
RUNNING, WAITING = (f"22222222-2222-4222-8222-22222222222{n}" for n in (0, 1))
ENDED = {"succeeded", "failed", "cancelled"}
FIRST, FRONT = "33333333-3333-4333-8333-333333333333", "44444444-4444-4444-8444-444444444444"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    with tarfile.open(HERE / "data-0.1.0.tar.gz") as archive:
        archive.extractall(path, filter="data")
    return path


@pytest.fixture
async def taken(folder: Path, database: Database) -> Database:
    assert await take_over(folder, database)
    return database


async def test_the_queue_is_the_same(taken: Database) -> None:
    jobs = JobRepository(taken)
    live = await jobs.live()
    payloads = await jobs.payloads([job.key for job in live])
    for member in ("anna", "ben"):
        name = {"anna": "Anna"}.get(member, member)
        shown = {
            job.id: [
                job.number,
                job.id,
                codec.loads(payloads[job.key].graph),
                codec.loads(payloads[job.key].extra_data),
                job.outputs_to_execute,
            ]
            for job in live
            if job.member == name
        }
        queue = TOLD[member]["queue"]
        assert shown == {item[1]: item for item in queue["queue_running"] + queue["queue_pending"]}
    assert {job.id: job.state for job in live} == {
        RUNNING: "running",
        WAITING: "submitted",
        FIRST: "queued",
        FRONT: "queued",
    }
    running = next(job for job in live if job.id == RUNNING)
    assert running.account == "default"
    assert running.cloud_id
    assert running.client_id == "anna-client"
    assert [job.id for job in live] == [RUNNING, WAITING, FIRST, FRONT]  # as they came


async def test_the_history_and_the_lists_are_the_same(taken: Database) -> None:
    jobs = JobRepository(taken)
    for member, name in (("anna", "Anna"), ("ben", "ben")):
        found = {}
        async for some in jobs.history.entries(name):
            for entry in some:
                prompt = [
                    codec.loads(entry.number),
                    entry.id,
                    codec.loads(entry.graph),
                    codec.loads(entry.extra_data),
                    codec.loads(entry.outputs_to_execute),
                ]
                found[entry.id] = {"prompt": prompt, **codec.loads(entry.result)}
        assert found == TOLD[member]["history"]
        assert list(found) == list(TOLD[member]["history"])
        shown, _ = await jobs.history.summaries(name, states=ENDED)
        assert list(map(codec.loads, shown)) == [
            job
            for job in TOLD[member]["jobs"]["jobs"]
            if job["status"] not in ("pending", "in_progress")
        ]
    found, total = await jobs.history.summaries("Anna", states=ENDED, workflow_id="wf-1")
    assert len(found) == total == 1


async def test_new_jobs_come_behind(taken: Database) -> None:
    jobs = JobRepository(taken)
    keys = [job.key for job in await jobs.live()]
    new = StoredJob("Anna", "new", "queued", 9, 1, 1)
    assert (await jobs.insert(new, Payload(b"{}", b"{}"))).key > max(keys)
    assert await jobs.load_shares() == Shares(1.5, {"Anna": Share(2.0, None)}, {"default": 1})


async def test_the_files_are_the_same(taken: Database) -> None:
    await FileRepository(taken).read(_check_files)


def _check_files(files: FileUnit) -> None:
    listing = list(files.listing("Anna", "input"))
    assert [path for path in listing if "/" not in path] == TOLD["anna"]["input"]
    assert listing == ["photo.png", "sub/photo.png"]
    assert list(files.listing("Anna", "output")) == sorted(TOLD["anna"]["output"])
    assert list(files.listing("ben", "output")) == TOLD["ben"]["output"]
    assert files.next_number("Anna", Place("output", ""), "inverted") == 2
    upload = files.get("Anna", Place("input", "photo.png"))
    assert upload is not None
    assert upload.hash == upload.cloud_name.removesuffix(".png")
    assert upload.job is None
    ((identity, name),) = files.sent_names(upload.hash)
    assert name == upload.cloud_name
    assert files.hash_of(identity, name) == upload.hash
    assert not files.names_are_opaque()
    made = files.get("Anna", Place("output", "ComfyUI_00001_.png"))
    assert made is not None
    assert made.job == "11111111-1111-4111-8111-111111111111"
    given = files.given("Anna", made.job, "2")
    assert given is not None
    assert json.loads(given)[0]["path"] == "ComfyUI_00001_.png"


async def test_the_members_and_their_tokens_are_the_same(taken: Database) -> None:
    found = await MemberRepository(taken).load()
    members = {one.key: (one.name, one.removed) for one in found.members}
    assert members == {
        "anna": ("Anna", False),
        "ben": ("ben", False),
        "carl": ("carl", True),
    }
    anna = json.loads(next(one.data for one in found.members if one.key == "anna"))
    assert (anna["role"], anna["weight"], anna["limits"]["max_queued"]) == ("admin", 2.0, 50)
    assert Counter(token.member for token in found.tokens) == {"Anna": 1, "ben": 2}
    tokens = {token.id: token for token in found.tokens}
    used = tokens[TOLD["tokens"]["Anna"].removeprefix("ccp_")[:8]]
    assert used.note == "laptop of Anna"
    assert used.used_from == "127.0.0.1"
    assert tokens[TOLD["extra"].removeprefix("ccp_")[:8]].expires is not None
    (session,) = found.sessions
    assert session.token == used.id


async def test_the_usage_is_the_same(taken: Database) -> None:
    rows = await UsageRepository(taken).days("2000-01-01", "2100-01-01")
    assert rows == [UsageRow(**row) for row in TOLD["usage"]["usage"]]


def change(folder: Path, sql: str, *values: Any, name: str = "proxy.sqlite") -> None:
    connection = sqlite3.connect(folder / name)
    connection.execute(sql, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("jobs", ["jobs", "history"])
async def test_what_a_crash_kept_from_being_counted_is_counted(
    folder: Path, database: Database, jobs: str
) -> None:
    """Without marks as after a crash between a job's record and its count."""
    change(folder, "DELETE FROM documents WHERE collection IN ('usage', 'usage_marks')")
    change(folder, f"DELETE FROM documents WHERE collection = '{jobs}'")
    await take_over(folder, database)
    rows = await UsageRepository(database).days("2000-01-01", "2100-01-01")
    counted = {row.member: (row.submitted, row.completed, row.outputs) for row in rows}
    if jobs == "history":
        assert counted == {"Anna": (2, 0, 0), "ben": (2, 0, 0)}
    else:
        assert counted == {"Anna": (2, 2, 3), "ben": (1, 1, 1)}


async def test_a_job_that_left_uncounted_is_taken_back(folder: Path, database: Database) -> None:
    change(folder, "DELETE FROM documents WHERE collection = 'jobs' AND key LIKE 'ben/%'")
    await take_over(folder, database)
    rows = await UsageRepository(database).days("2000-01-01", "2100-01-01", "ben")
    assert [(row.submitted, row.withdrawn) for row in rows] == [(1, 2)]


async def test_a_copy_is_kept_and_nothing_is_taken_over_twice(folder: Path) -> None:
    database = await open_folder(folder)
    await database.close()
    assert not (folder / "proxy.sqlite").exists()
    for name in ("proxy.sqlite", "members.sqlite"):
        assert (folder / KEPT / name).exists()
        assert not (folder / KEPT / f"{name}-wal").exists()  # all of it is in the file
    database = await open_folder(folder)
    assert len(await JobRepository(database).live()) == 4
    await database.close()
    old = sqlite3.connect(folder / KEPT / "proxy.sqlite")
    query = "SELECT count(*) FROM documents WHERE collection = 'jobs'"
    assert old.execute(query).fetchone() == (4,)
    old.close()


async def test_an_interrupted_take_over_begins_again(folder: Path, database: Database) -> None:
    (folder / KEPT).mkdir()
    for suffix in ("", "-wal"):  # moved, and then the process was killed
        shutil.move(folder / f"proxy.sqlite{suffix}", folder / KEPT)
    assert await take_over(folder, database)
    assert len(await JobRepository(database).live()) == 4
    assert len((await MemberRepository(database).load()).members) == 3


async def test_a_folder_without_old_records_is_left_alone(
    tmp_path: Path, database: Database
) -> None:
    assert not await take_over(tmp_path, database)
    assert not (tmp_path / KEPT).exists()


async def test_records_written_by_0_1_0_afterwards_are_refused(folder: Path) -> None:
    await (await open_folder(folder)).close()
    shutil.copy(folder / KEPT / "proxy.sqlite", folder)
    with pytest.raises(LegacyError, match=r"written by version 0\.1\.0 after"):
        await open_folder(folder)


async def test_two_of_the_same_are_refused(folder: Path) -> None:
    (folder / KEPT).mkdir()
    shutil.copy(folder / "proxy.sqlite", folder / KEPT)
    with pytest.raises(LegacyError, match="are both records"):
        await open_folder(folder)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("proxy.sqlite", f"jobs Anna/{RUNNING}"),
        ("proxy.sqlite", "history Anna/11111111-1111-4111-8111-111111111111"),
        ("proxy.sqlite", "files Anna/input/photo.png"),
        ("proxy.sqlite", "turns state"),
        ("proxy.sqlite", "usage 2026-11-25/Anna"),
        ("members.sqlite", "members anna"),
    ],
)
@pytest.mark.parametrize("spoil", [_cut, lambda _: b'{"a": 1}', lambda _: b"[]"])
async def test_a_record_that_cannot_be_read_stops_the_start(
    folder: Path, name: str, key: str, spoil: Callable[[bytes], bytes]
) -> None:
    collection, _, key = key.partition(" ")
    connection = sqlite3.connect(folder / name)
    where = "WHERE collection = ? AND key = ?"
    query = f"SELECT value FROM documents {where}"
    ((value,),) = connection.execute(query, (collection, key)).fetchall()
    connection.close()
    spoilt = spoil(bytes(value))
    change(folder, f"UPDATE documents SET value = ? {where}", spoilt, collection, key, name=name)
    with pytest.raises(LegacyError, match=f"{collection}/{key} of version") as raised:
        await open_folder(folder)
    assert "repair or delete it" in str(raised.value)
    database = await open_folder_without_old(folder)
    assert await JobRepository(database).live() == []
    await database.close()


async def test_a_value_of_another_type_stops_the_start(folder: Path) -> None:
    spoilt = "CAST(json_set(CAST(value AS TEXT), '$.note', json('{}')) AS BLOB)"
    where = "WHERE collection = 'tokens'"
    change(folder, f"UPDATE documents SET value = {spoilt} {where}", name="members.sqlite")
    with pytest.raises(LegacyError, match=r"value of another type.*repair it"):
        await open_folder(folder)
    database = await open_folder_without_old(folder)
    await database.close()


async def open_folder_without_old(folder: Path) -> Database:
    """As the sentence advises."""
    shutil.move(folder / KEPT, folder.parent)
    return await open_folder(folder)


async def test_an_unknown_collection_stops_the_start(folder: Path) -> None:
    change(folder, "INSERT INTO documents VALUES ('spells', 'a', x'00')")
    with pytest.raises(LegacyError, match="spells"):
        await open_folder(folder)


@pytest.mark.parametrize("name", ["proxy.sqlite", "members.sqlite"])
async def test_a_damaged_file_stops_the_start_and_stays(folder: Path, name: str) -> None:
    (folder / f"{name}-wal").unlink()
    (folder / name).write_bytes(b"no database" * 1000)
    with pytest.raises(LegacyError, match="restore the file from a backup"):
        await open_folder(folder)
    assert (folder / name).read_bytes() == b"no database" * 1000
    assert (folder / FILE).exists()
