"""`migrate`, `backup`, `restore` and `serve --start-empty`, as commands beside running servers."""

from __future__ import annotations

import tarfile
from pathlib import Path

import aiohttp
import pytest
from process import command, serving

from proxy.storage.job_tables import StoredJob
from proxy.storage.jobs import JobRepository
from proxy.storage.payloads import Payload
from proxy.storage.sqlite import FILE
from proxy.storage.start import HEAD, open_folder

pytestmark = pytest.mark.sqlite

WORKFLOW = Path(__file__).parents[1] / "examples/text-to-image.json"


def made_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def history(url: object) -> set[str]:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/history") as answer:
        return set(await answer.json())


async def run(url: object, output: Path) -> None:
    words = ("--set", "5.steps=1", "--server", str(url), "--output", str(output))
    code, _, err = await command("run", str(WORKFLOW), *words)
    assert code == 0, err


async def test_a_copy_of_a_running_server_serves_the_same_elsewhere(tmp_path: Path) -> None:
    copy, data = tmp_path / "copy.tar.gz", ("--data-dir", str(tmp_path / "data"))
    async with serving(tmp_path / "data", "--simulate") as process:
        await run(process.url, tmp_path / "output")
        before = await history(process.url)
        code, out, err = await command("backup", str(copy), *data)
        assert (code, err) == (0, "")
        assert out.startswith(f"{tmp_path / 'data'} was copied to {copy} (")
        code, _, err = await command("restore", str(copy), *data)
        assert code == 2
        assert err.startswith("Another comfy-cloud-proxy uses the data folder")
    code, out, err = await command("restore", str(copy), "--data-dir", str(tmp_path / "new"))
    assert (code, out, err) == (0, f"{copy} was restored to {tmp_path / 'new'}.\n", "")
    async with serving(tmp_path / "new", "--simulate") as process:
        assert await history(process.url) == before != set()


async def test_what_a_restored_copy_replaces_is_kept(tmp_path: Path) -> None:
    copy, data = tmp_path / "data/copy.tar", ("--data-dir", str(tmp_path / "data"))
    await command("member", "add", "anna", *data)
    assert (await command("backup", str(copy), *data))[0] == 0
    await command("member", "add", "ben", *data)
    code, _, err = await command("backup", str(copy), *data)
    assert (code, err.endswith("exists: choose another name, or add --force.\n")) == (2, True)
    assert (await command("backup", str(copy), "--force", *data))[0] == 0
    with tarfile.open(copy) as archive:
        assert copy.name not in archive.getnames()
    copy.rename(tmp_path / "copy.tar")
    code, out, _ = await command("restore", str(tmp_path / "copy.tar"), *data)
    assert code == 0
    assert f"The previous content is in {tmp_path / 'data/replaced-1'}." in out
    assert "ben" in (await command("member", "list", *data))[1]


@pytest.mark.parametrize("words", [("backup", "copy.tar"), ("migrate",)])
async def test_a_mistyped_folder_is_an_error_and_not_made(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = await command(*words, "--data-dir", str(tmp_path / "tpyo"))
    assert (code > 0, out) == (True, "")
    assert str(tmp_path / "tpyo") in err
    assert err.endswith(" to the folder of the proxy.\n")
    assert made_in(tmp_path) == []


async def test_what_is_no_copy_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / FILE).write_bytes(b"as it was")
    (tmp_path / "copy.tar").write_bytes(b"no tar file")
    words = (str(tmp_path / "copy.tar"), "--data-dir", str(tmp_path / "data"))
    code, out, err = await command("restore", *words)
    assert (code, out) == (1, "")
    assert err.startswith(f"Nothing was restored: the backup {tmp_path / 'copy.tar'} cannot be ")
    assert (tmp_path / "data" / FILE).read_bytes() == b"as it was"


async def test_a_folder_is_migrated_without_serving(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    words = ("migrate", "--data-dir", str(tmp_path / "data"))
    code, out, _ = await command(*words)
    assert (code, out) == (0, f"The data folder {tmp_path / 'data'} is now at the schema {HEAD}.\n")
    code, out, _ = await command(*words)
    assert (code, out) == (0, f"The data folder {tmp_path / 'data'} is at the schema {HEAD}.\n")


async def test_a_damaged_database_ends_the_start_unless_an_empty_one_is_wanted(
    tmp_path: Path,
) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    words = ("serve", "--simulate", "--port", "0", "--data-dir", str(tmp_path))
    code, out, err = await command(*words)
    assert (code, out) == (2, "")
    assert "comfy-cloud-proxy restore" in err
    assert "--start-empty" in err
    async with serving(tmp_path, "--simulate", "--start-empty") as process:
        assert await history(process.url) == set()
        assert await process.stop() == 0
    assert (tmp_path / f"{FILE}.damaged-1").read_bytes() == b"no database" * 1000


async def test_waiting_jobs_are_held_and_released_on_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    data = ("--data-dir", str(folder))
    code, _, err = await command("jobs", "hold", *data)
    assert (code, "set --data-dir to the folder of the proxy" in err) == (2, True)
    database = await open_folder(folder)
    waiting = StoredJob("local", "a", "queued", 0, 1, 1)
    await JobRepository(database).insert(waiting, Payload(b"{}", b"{}"))
    await database.close()
    copy = tmp_path / "copy.tar"
    assert (await command("backup", str(copy), *data))[0] == 0
    said = "1 job that waited is held: such a job may have run since the backup."
    for words in (("restore", str(copy)), ("jobs", "hold")):
        code, out, _ = await command(*words, *data)
        assert (code, said in " ".join(out.split())) == (0, True)
    for count in ("1 held job is", "0 held jobs are"):
        code, out, _ = await command("jobs", "release", *data)
        assert (code, out) == (0, f"{count} sent in turn.\n")
    async with serving(folder, "--simulate"):
        code, _, err = await command("jobs", "hold", *data)
        assert (code, "a proxy uses the database: stop it first" in err) == (1, True)
