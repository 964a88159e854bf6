"""Outputs in a folder of this machine, for programs that read ComfyUI's `output`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import gated
import graphs
import pytest
import waiting
from process import command, serving
from small_disk import fill, small_disk
from stack import Client, Proxy, running_proxy
from structlog.testing import capture_logs
from team import running_team

from proxy.cli import serve
from proxy.files import output_directory
from proxy.runtime.backoff import Backoff
from proxy.settings import ConfigError
from proxy.simulator import HttpFault, Simulator


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_directory, "_MISSING_RETRY", Backoff(0.05, 0.1))


@asynccontextmanager
async def writing_proxy(
    simulator: Simulator, output: Path, session: aiohttp.ClientSession, **settings: Any
) -> AsyncIterator[tuple[Proxy, Client]]:
    folder = output.parent / "data"
    async with running_proxy(simulator, folder, output_directory=output, **settings) as proxy:
        yield proxy, Client(session, proxy.url)


@pytest.fixture
async def client(
    simulator: Simulator, output: Path, session: aiohttp.ClientSession
) -> AsyncIterator[Client]:
    async with writing_proxy(simulator, output, session) as (_, client):
        yield client


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()
    )


def is_file(path: Path) -> bool:
    return path.exists()


def read(path: Path) -> bytes:
    return path.read_bytes()


async def until(path: Path) -> bytes:
    """The bytes of a file, once it is there."""
    async with asyncio.timeout(30):
        while not is_file(path):  # noqa: ASYNC110 (nobody tells of files)
            await asyncio.sleep(0.01)
    return read(path)


async def test_a_picture_is_there_when_its_client_hears_of_the_end(
    client: Client, output: Path
) -> None:
    async with client.listening() as listener:
        await client.submit(graphs.plain(1, prefix="cats/cat"))
        await listener.until("execution_success")
        written = (output / "cats" / "cat_00001_.png").read_bytes()
    [item] = listener.of("executed")[0]["output"]["images"]
    assert (item["subfolder"], item["filename"]) == ("cats", "cat_00001_.png")
    assert written == await client.view(item)
    assert files(output) == ["cats/cat_00001_.png"]


async def test_a_picture_is_there_when_the_history_shows_its_job(
    simulator: Simulator, client: Client, output: Path
) -> None:
    """Its download takes longer than everything else."""
    simulator.faults.add(HttpFault("GET storage", delay=0.5), times=None)
    await client.ended(await client.submit(graphs.plain(2)))
    assert files(output) == ["ComfyUI_00001_.png"]


async def test_previews_are_not_written(client: Client, output: Path) -> None:
    await client.upload("cat.png", graphs.png())
    entry = await client.run(graphs.inverted("cat.png"))
    kinds = {item["type"] for node in entry["outputs"].values() for item in node["images"]}
    assert kinds == {"output", "temp"}
    assert files(output) == ["inverted_00001_.png"]


async def test_what_a_job_has_saved_before_it_fails_is_written(
    client: Client, output: Path
) -> None:
    raising = graphs.raising()
    graph = {**graphs.plain(), "3": raising["3"], "4": raising["2"]}
    entry = await client.run(graph)
    assert entry["status"]["status_str"] == "error"
    [item] = entry["outputs"]["2"]["images"]
    assert files(output) == [item["filename"]]


async def test_each_member_has_a_folder(simulator: Simulator, tmp_path: Path, output: Path) -> None:
    async with running_team(simulator, tmp_path / "data", output_directory=output) as team:
        for color, token in enumerate((team.ann, team.bob)):
            headers = {"Authorization": f"Bearer {token}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                client = Client(session, team.url)
                await client.ended(await client.submit(graphs.plain(color)))
    assert files(output) == ["ann/ComfyUI_00001_.png", "bob/ComfyUI_00001_.png"]


async def test_files_of_others_stay_and_are_counted(client: Client, output: Path) -> None:
    (output / "ComfyUI_00007_.png").write_bytes(b"of a local ComfyUI")
    (output / "ComfyUI_00008_.png").mkdir()
    await client.run(graphs.plain(3))
    assert (output / "ComfyUI_00009_.png").read_bytes().startswith(b"\x89PNG")
    assert (output / "ComfyUI_00007_.png").read_bytes() == b"of a local ComfyUI"


async def test_a_picture_that_a_program_has_taken_is_not_written_again(
    client: Client, output: Path
) -> None:
    await client.run(graphs.plain(4))
    (output / "ComfyUI_00001_.png").unlink()
    await client.run(graphs.plain(5))
    assert files(output) == ["ComfyUI_00002_.png"]


async def test_a_link_in_the_folder_leads_nowhere(
    client: Client, output: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (output / "cats").symlink_to(outside)
    with capture_logs() as logs:
        entry = await client.run(graphs.plain(6, prefix="cats/cat"))
    assert entry["status"]["completed"]
    assert files(outside) == []
    assert "output_name_rejected" in [line["event"] for line in logs]


async def test_a_job_ends_without_a_file_that_cannot_be_fetched_and_gets_it_later(
    simulator: Simulator, client: Client, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_directory, "MAX_WAIT", 0.3)
    fault = simulator.faults.add(HttpFault("GET storage", status=503), times=None)
    entry = await client.run(graphs.plain(7))
    assert entry["status"]["completed"]
    assert files(output) == []
    fault.times = 0
    assert await until(output / "ComfyUI_00001_.png")


async def test_a_file_that_the_cloud_no_longer_has_is_given_up(
    simulator: Simulator, client: Client, output: Path
) -> None:
    simulator.faults.add(HttpFault("GET /api/view", status=404), times=None)
    with capture_logs() as logs:
        entry = await client.run(graphs.plain(8))
    assert entry["status"]["completed"]
    assert [line["path"] for line in logs if line["event"] == "output_lost"] == [
        "ComfyUI_00001_.png"
    ]


@pytest.mark.sqlite
async def test_a_job_that_ended_while_the_proxy_was_away_has_its_file_at_the_end(
    tmp_path: Path, output: Path, session: aiohttp.ClientSession
) -> None:
    opened = asyncio.Event()
    graph = {
        **graphs.plain(9),
        "3": {"class_type": "TestGate", "inputs": {}},
    }
    async with Simulator(extra_nodes=[gated.gate(opened)]) as simulator:
        async with (
            writing_proxy(simulator, output, session) as (_, client),
            client.listening() as listener,
        ):
            prompt_id = await client.submit(graph)
            await listener.until("executing")
        opened.set()
        await simulator.wait_for_end(next(iter(simulator.jobs)))
        async with writing_proxy(simulator, output, session) as (_, client):
            await client.ended(prompt_id)
            assert files(output) == ["ComfyUI_00001_.png"]


# --- a disk that is full --------------------------------------------------------------------------


@pytest.fixture
def disk(output: Path) -> Iterator[Path]:
    """The output directory on a disk of 1 MiB."""
    with small_disk(output, "1m") as disk:
        yield disk


async def test_a_full_disk_is_shown_at_readyz_and_made_good(
    simulator: Simulator, disk: Path, session: aiohttp.ClientSession
) -> None:
    filler = fill(disk)
    async with writing_proxy(simulator, disk, session) as (_, client):
        await client.until_ready()
        entry = await client.run(graphs.plain(10))
        assert entry["status"]["completed"]
        await waiting.until(lambda: files(disk) == ["filler"])  # an attempt may be under way
        status, ready = await client.get("readyz")
        assert (status, ready["status"]) == (200, "degraded")
        assert "No space left on device" in ready["checks"]["outputs"]
        _, state = await client.get("proxy/api/state")
        assert state["trouble"] == ready["checks"]["outputs"]
        filler.unlink()
        picture = await until(disk / "ComfyUI_00001_.png")
        assert picture == await client.view(entry["outputs"]["2"]["images"][0])
        assert (await client.get("readyz"))[1]["checks"]["outputs"] == "ok"


async def test_a_deleted_folder_is_named_at_readyz_and_made_good(
    client: Client, output: Path
) -> None:
    await asyncio.to_thread(output.rmdir)
    await client.run(graphs.plain(11))
    _, ready = await client.get("readyz")
    assert f"create {output} again; the missing files" in ready["checks"]["outputs"]
    assert (await client.get("proxy/api/interface"))[1]["problem"] == ready["checks"]["outputs"]
    await asyncio.to_thread(output.mkdir)
    await until(output / "ComfyUI_00001_.png")


async def test_what_a_full_disk_lacks_is_made_good_after_a_restart(
    simulator: Simulator, disk: Path, session: aiohttp.ClientSession
) -> None:
    filler = fill(disk)
    async with writing_proxy(simulator, disk, session) as (_, client):
        await client.run(graphs.plain(11))
    filler.unlink()
    async with writing_proxy(simulator, disk, session):
        assert await until(disk / "ComfyUI_00001_.png")


async def test_a_folder_that_cannot_be_made_is_refused_at_the_start(
    simulator: Simulator, output: Path, session: aiohttp.ClientSession
) -> None:
    output.write_bytes(b"a file")  # noqa: ASYNC240
    with pytest.raises(ConfigError, match="of output_directory cannot be written"):
        async with writing_proxy(simulator, output, session):
            pass


async def test_run_says_that_the_server_cannot_write_the_outputs(
    client: Client, output: Path, tmp_path: Path
) -> None:
    await asyncio.to_thread(output.rmdir)
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(graphs.plain(12)))
    words = ("--server", str(client.url), "--output", str(tmp_path / "own"))
    code, out, _ = await command("run", str(workflow), *words)
    assert code == 0
    assert "problem on the server: Outputs cannot be written" in " ".join(out.split())


@pytest.mark.sqlite
@pytest.mark.skipif(serve._in_container(), reason="a container has no home folder")
@pytest.mark.parametrize(
    ("options", "folders"),
    [
        ((), {"ComfyUI-Cloud/simulated"}),
        (("--no-save-outputs",), set()),
    ],
)
async def test_a_person_alone_finds_the_pictures_in_the_home_folder(
    tmp_path: Path,
    session: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    folders: set[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "share")}
    data = tmp_path / "share/comfy-cloud-proxy/simulator"
    async with serving(data, "--simulate", *options, environment=home) as process:
        client = Client(session, process.url)
        await client.run(graphs.plain())
    found = [tmp_path / name for name in files(tmp_path) if name.endswith("ComfyUI_00001_.png")]
    assert {path.parent.relative_to(tmp_path).as_posix() for path in found} == folders
    links = [path.stat().st_nlink for path in found]
    assert links == ([] if not folders else [1] if options else [2])  # with that of the cache


@pytest.mark.parametrize(("folders", "status"), [(32, 200), (33, 400), (1500, 400)])
async def test_a_prefix_has_at_most_32_folders(client: Client, folders: int, status: int) -> None:
    graph = graphs.plain(prefix="x/" * folders + "picture")
    found, answer = await client.post("prompt", {"prompt": graph})
    assert found == status
    if status == 400:
        (error,) = answer["node_errors"]["2"]["errors"]
        assert error["extra_info"] == {"input_name": "filename_prefix"}
        assert "at most 32" in error["details"]
    else:
        await client.ended(answer["prompt_id"])


async def test_an_output_in_too_many_folders_by_a_computed_prefix_is_not_written(
    client: Client, output: Path
) -> None:
    graph = graphs.plain()
    graph["3"] = {"class_type": "PrimitiveString", "inputs": {"value": "x/" * 40 + "picture"}}
    graph["2"]["inputs"]["filename_prefix"] = ["3", 0]
    with capture_logs() as logged:
        entry = await client.run(graph)
    (image,) = entry["outputs"]["2"]["images"]
    assert image["subfolder"].count("/") == 39
    assert await client.view(image)
    assert "output_name_rejected" in [line["event"] for line in logged]
    assert entries(output) == []
