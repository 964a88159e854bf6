"""A data folder that is full, read-only, locked, damaged or taken: refused before, never after."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
from backend import open_database
from process import before, command, serving
from small_disk import fill, mount, small_disk
from stack import Client, running_proxy
from structlog.testing import capture_logs

from proxy.settings import ConfigError
from proxy.simulator import Simulator
from proxy.storage import sqlite
from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    with small_disk(tmp_path / "disk", "2m") as path:
        yield path


async def refusal(client: Client, path: str = "prompt", **body: Any) -> tuple[int, str]:
    """Status and type of the error of a submission."""
    status, answer = await client.post(path, body or {"prompt": graphs.plain()})
    return status, answer["error"]["type"]


async def exit_of(folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Start a process that should not start; its exit code, and what it says."""
    words = ("serve", "--port", "0", "--data-dir", str(folder))
    code, _, output = await command(*words, environment={**os.environ, **environment})
    return code, output


@pytest.mark.sqlite  # whose file is on the disk
async def test_on_a_full_disk_nothing_is_accepted_and_what_was_comes_to_its_end(
    disk: Path, session: aiohttp.ClientSession
) -> None:
    opened = asyncio.Event()
    async with (
        Simulator(extra_nodes=[gated.gate(opened)]) as simulator,
        running_proxy(simulator, disk / "data") as proxy,
    ):
        client = Client(session, proxy.url)
        async with client.listening() as listener:
            accepted = await client.submit({**graphs.plain(1), "9": gated.GRAPH["1"]})
            assert len(simulator.jobs) == 1
            filler = fill(disk)
            with capture_logs() as logs:
                for _ in range(3):
                    assert await refusal(client) == (503, "store_unavailable")
                opened.set()
                await simulator.wait_for_calls("GET /api/jobs/{id}")
                await client.get("queue")
            assert [log["event"] for log in logs].count("database_failed") == 1
            assert (await client.get(f"history/{accepted}"))[1] == {}
            filler.unlink()
            await listener.until_end(accepted)
            await client.run(graphs.plain())
    assert len(simulator.jobs) == 2


async def test_on_a_full_disk_an_upload_is_refused(
    simulator: Simulator, disk: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, disk / "data") as proxy:
        client = Client(session, proxy.url)
        filler = fill(disk)
        form = aiohttp.FormData()
        form.add_field("image", graphs.png(), filename="a.png", content_type="image/png")
        async with session.post(proxy.url / "upload/image", data=form) as answer:
            assert answer.status in (503, 507)
            assert (await answer.json())["error"]["message"]
        filler.unlink()
        assert (await client.upload("a.png", graphs.png()))["name"] == "a.png"


async def test_a_disk_that_is_full_at_the_start_is_an_error_of_one_sentence(
    simulator: Simulator, disk: Path
) -> None:
    fill(disk)
    code, output = await exit_of(disk / "data", before(simulator))
    assert code == 2
    assert output.count("\n") == 1, output
    assert "full" in output


async def test_a_folder_that_cannot_be_written_is_an_error_of_one_sentence(
    simulator: Simulator, disk: Path
) -> None:
    (disk / "data").mkdir()
    assert mount("-o", "remount,ro", str(disk))
    code, output = await exit_of(disk / "data", before(simulator))
    assert code == 2
    assert output.count("\n") == 1, output
    assert "permissions" in output


async def test_a_folder_of_another_process_is_an_error_of_one_sentence(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with running_proxy(simulator, tmp_path):
        code, output = await exit_of(tmp_path, before(simulator))
    assert code == 2
    assert output.startswith("Another comfy-cloud-proxy uses the data folder")
    assert output.count("\n") == 1, output


@pytest.mark.sqlite
async def test_a_damaged_database_is_replaced_only_when_asked_for(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    (tmp_path / sqlite.FILE).write_bytes(b"junk " * 1000)
    code, output = await exit_of(tmp_path, before(simulator))
    assert code == 2
    assert "restore FILE" in output
    assert "--start-empty" in output
    assert (tmp_path / sqlite.FILE).read_bytes() == b"junk " * 1000
    async with serving(tmp_path, "--start-empty", environment=before(simulator)) as process:
        await Client(session, process.url).run(graphs.plain())
        assert await process.stop() == 0
    assert b"database_replaced" in b"".join(process.said)
    assert (tmp_path / f"{sqlite.FILE}.damaged-1").read_bytes() == b"junk " * 1000


async def test_a_job_that_cannot_be_read_stops_the_start(
    simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    async with running_proxy(simulator, tmp_path) as proxy:
        await Client(session, proxy.url).run(graphs.plain())
    stored = await open_database(tmp_path)
    job = StoredJob("local", "spoilt", "submitted", 0, 1, 1)
    await JobRepository(stored).insert(job, Payload(b'{"cut', b"{}"))
    await stored.close()
    with pytest.raises(ConfigError, match="cannot be read"):
        async with running_proxy(simulator, tmp_path):
            pass


@pytest.mark.sqlite
async def test_while_another_process_locks_the_database_nothing_is_accepted(
    simulator: Simulator,
    tmp_path: Path,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 50)
    async with running_proxy(simulator, tmp_path) as proxy:
        client = Client(session, proxy.url)
        other = sqlite3.connect(tmp_path / sqlite.FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert await refusal(client) == (503, "store_unavailable")
        assert simulator.calls["POST /api/prompt"] == 0
        other.execute("ROLLBACK")
        other.close()
        await client.run(graphs.plain())


@pytest.mark.sqlite
async def test_a_database_that_is_locked_at_the_start_is_not_taken_for_damaged(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 50)
    other = sqlite3.connect(tmp_path / sqlite.FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ConfigError, match="locked"):
        async with running_proxy(simulator, tmp_path):
            pass
    other.close()
    with capture_logs() as logs:
        async with running_proxy(simulator, tmp_path):
            pass
    assert not [log for log in logs if "damaged" in log["event"]]
