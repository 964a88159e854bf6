"""The database of a data folder at the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.settings import Settings
from proxy.storage import start
from proxy.storage.database import BusyError, DamagedError, StorageError
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload
from proxy.storage.sqlite import FILE
from proxy.storage.start import HEAD, at_start, has_database, open_folder, revision


async def test_a_new_folder_gets_a_database_with_the_newest_schema(tmp_path: Path) -> None:
    database = await open_folder(tmp_path / "new" / "data")
    assert await database.read(revision) == HEAD
    await database.close()


async def test_records_are_there_again(tmp_path: Path) -> None:
    database = await open_folder(tmp_path)
    job = StoredJob("anna", "a", "queued", 0, 1, 1)
    await JobRepository(database).insert(job, Payload(b"{}", b"{}"))
    await database.close()
    database = await open_folder(tmp_path, start_empty=True)
    assert len(await JobRepository(database).live()) == 1
    await database.close()


def test_a_folder_has_a_database_once_a_proxy_has_run_there(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert not has_database(settings)
    (tmp_path / FILE).touch()
    assert has_database(settings)


def test_a_server_has_a_database(tmp_path: Path) -> None:
    server: dict[str, Any] = {"database": "postgresql://comfy@db.example/comfy"}
    assert has_database(Settings(data_dir=tmp_path, **server))


async def test_a_damaged_database_is_never_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(DamagedError, match="--start-empty"):
        await open_folder(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"no database" * 1000


async def test_who_asks_for_it_starts_empty_and_the_damaged_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with capture_logs() as logs:
        database = await open_folder(tmp_path, start_empty=True)
    assert await JobRepository(database).live() == []
    await database.close()
    kept = tmp_path / f"{FILE}.damaged-1"
    assert kept.read_bytes() == b"no database" * 1000
    (line,) = [line for line in logs if line["event"] == "database_replaced"]
    assert line["kept_as"] == str(kept)


class Refusing:
    """A call that fails with each of these errors, and then returns how often it was called."""

    def __init__(self, *errors: StorageError) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


async def test_a_start_asks_a_busy_database_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "BUSY_PAUSE", 0.0)
    assert await at_start(Refusing(BusyError("busy"), BusyError("busy"))) == 3


async def test_a_start_gives_a_busy_database_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "BUSY_TIMEOUT", 0.0)
    call = Refusing(BusyError("busy"))
    with pytest.raises(BusyError):
        await at_start(call)
    assert call.calls == 1


async def test_a_start_does_not_wait_for_a_database_that_is_away() -> None:
    call = Refusing(StorageError("away"))
    with pytest.raises(StorageError):
        await at_start(call)
    assert call.calls == 1
