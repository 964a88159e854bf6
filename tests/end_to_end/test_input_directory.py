"""Files in a folder of this machine that graphs name, as in ComfyUI's `input`."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from PIL import Image
from stack import Client, running_proxy
from team import running_team

from proxy.settings import ConfigError
from proxy.simulator import Simulator


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "input"
    path.mkdir()
    return path


@pytest.fixture
async def client(
    simulator: Simulator, folder: Path, session: aiohttp.ClientSession
) -> AsyncIterator[Client]:
    data = folder.parent / "data"
    async with running_proxy(simulator, data, input_directory=folder) as proxy:
        yield Client(session, proxy.url)


async def test_a_folder_that_is_missing_is_not_made(simulator: Simulator, tmp_path: Path) -> None:
    missing = tmp_path / "inptu"
    with pytest.raises(ConfigError, match="inptu of input_directory cannot be read"):
        async with running_proxy(simulator, tmp_path / "data", input_directory=missing):
            pass
    assert not missing.exists()


def png(color: str, size: tuple[int, int] = (8, 6)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, color).save(target, format="PNG")
    return target.getvalue()


async def inverted(client: Client, name: str) -> tuple[int, ...]:
    """The first pixel of the inverted picture."""
    entry = await client.run(graphs.inverted(name))
    [item] = entry["outputs"]["4"]["images"]
    with Image.open(io.BytesIO(await client.view(item))) as picture:
        pixel: Any = picture.convert("RGB").getpixel((0, 0))
        return tuple(pixel)


async def status_of(client: Client, **query: str) -> int:
    """The status of `GET /view`."""
    async with client.session.get((client.url / "view").with_query(query)) as answer:
        return answer.status


def put(path: Path, data: bytes, *, age: float = 0.0) -> None:
    """Write a file that was changed so many seconds ago."""
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(data)
    at = path.stat().st_mtime - age
    os.utime(path, (at, at))


@pytest.mark.parametrize(
    "written", ["cat.png", "cats/cat.png", "cats/cat.png [input]", "cat (1).png"]
)
async def test_a_workflow_names_a_file(
    simulator: Simulator, client: Client, folder: Path, written: str
) -> None:
    put(folder / written.removesuffix(" [input]"), png("red"))
    uploads = "POST /api/upload/image"
    assert simulator.calls[uploads] == 0
    assert await inverted(client, written) == (0, 255, 255)
    assert await inverted(client, written) == (0, 255, 255)
    assert simulator.calls[uploads] == 1


async def test_the_whole_path_of_a_file_is_a_name(client: Client, folder: Path) -> None:
    put(folder / "cats" / "cat.png", png("red"))
    path = str(folder / "cats" / "cat.png")
    assert await inverted(client, path) == (0, 255, 255)
    body = {"prompt": graphs.inverted(str(folder / ".." / "outside.png"))}
    assert (await client.post("prompt", body))[0] == 400


async def test_the_file_is_read_when_the_job_runs(client: Client, folder: Path) -> None:
    put(folder / "cat.png", png("red"), age=10)
    assert await inverted(client, "cat.png") == (0, 255, 255)
    put(folder / "cat.png", png("blue"))
    assert await inverted(client, "cat.png") == (255, 255, 0)


async def test_of_a_file_and_an_upload_of_one_name_the_newer_counts(
    client: Client, folder: Path
) -> None:
    put(folder / "cat.png", png("red"), age=60)
    await client.upload("cat.png", png("blue"), overwrite="true")
    assert await inverted(client, "cat.png") == (255, 255, 0)
    put(folder / "cat.png", png("red"), age=-60)
    assert await inverted(client, "cat.png") == (0, 255, 255)


async def test_an_upload_of_a_name_that_a_file_has_gets_another(
    client: Client, folder: Path
) -> None:
    put(folder / "cat.png", png("red"), age=60)
    assert (await client.upload("cat.png", png("red")))["name"] == "cat.png"
    assert (await client.upload("cat.png", png("blue")))["name"] == "cat (1).png"
    assert sorted(path.name for path in folder.iterdir()) == ["cat.png"]  # noqa: ASYNC240


async def test_files_are_listed_where_a_local_server_lists_them(
    client: Client, folder: Path
) -> None:
    put(folder / "old.png", png("red"), age=60)
    put(folder / "new.png", png("red"))
    put(folder / "notes.txt", b"text")
    put(folder / ".hidden.png", png("red"))
    put(folder / "cats" / "cat.png", png("red"))
    await client.upload("sent.png", png("blue"))
    _, info = await client.get("object_info/LoadImage")
    choices = info["LoadImage"]["input"]["required"]["image"]
    names = choices[0] if isinstance(choices[0], list) else choices[1]["options"]
    assert {"old.png", "new.png", "sent.png"} <= set(names)
    assert not {"notes.txt", "cats/cat.png"} & set(names)
    _, listed = await client.get("internal/files/input")
    assert set(listed) == {"sent.png", "new.png", "notes.txt", "old.png"}
    assert listed[-1] == "old.png"


async def test_a_file_is_viewed_without_being_sent(
    simulator: Simulator, client: Client, folder: Path
) -> None:
    put(folder / "cats" / "cat.png", png("red"))
    item = {"filename": "cat.png", "subfolder": "cats", "type": "input"}
    assert await client.view(item) == png("red")
    assert simulator.calls["POST /api/upload/image"] == 0
    put(folder / "cats" / "cat.png", png("blue"), age=-5)
    assert await client.view(item) == png("blue")


async def test_a_file_that_is_deleted_is_no_longer_there(client: Client, folder: Path) -> None:
    put(folder / "cat.png", png("red"))
    await inverted(client, "cat.png")
    (folder / "cat.png").unlink()
    status, answer = await client.post("prompt", {"prompt": graphs.inverted("cat.png")})
    assert status == 400
    assert "Invalid image file" in str(answer["node_errors"])


@pytest.mark.parametrize(
    "name", ["link.png", "secrets/key.png", "../outside/key.png", "pipe.png", "no.png"]
)
async def test_no_name_leads_out_of_the_folder(
    client: Client, folder: Path, name: str, tmp_path: Path
) -> None:
    put(tmp_path / "outside" / "key.png", png("red"))
    (folder / "link.png").symlink_to(tmp_path / "outside" / "key.png")
    (folder / "secrets").symlink_to(tmp_path / "outside")
    os.mkfifo(folder / "pipe.png")
    status, _ = await client.post("prompt", {"prompt": graphs.inverted(name)})
    assert status == 400
    query = {"filename": name.rpartition("/")[2], "subfolder": name.rpartition("/")[0]}
    assert await status_of(client, type="input", **query) in (400, 403, 404)
    assert (await client.get("internal/files/input"))[1] == []


async def test_each_member_has_a_folder(simulator: Simulator, tmp_path: Path, folder: Path) -> None:
    put(folder / "ann" / "cat.png", png("red"))
    async with running_team(simulator, tmp_path / "data", input_directory=folder) as team:
        statuses = []
        for token in (team.ann, team.bob):
            headers = {"Authorization": f"Bearer {token}"}
            async with aiohttp.ClientSession(headers=headers) as session:
                client = Client(session, team.url)
                statuses.append(await status_of(client, filename="cat.png", type="input"))
                body = {"prompt": graphs.inverted("cat.png")}
                statuses.append((await client.post("prompt", body))[0])
                query = {"filename": "cat.png", "subfolder": "ann", "type": "input"}
                statuses.append(await status_of(client, **query))
    assert statuses == [200, 200, 404, 404, 400, 404]


async def test_a_workflow_in_a_picture_names_the_file(client: Client, folder: Path) -> None:
    put(folder / "cat.png", png("red"))
    entry = await client.run(graphs.inverted("cat.png"))
    data = await client.view(entry["outputs"]["3"]["images"][0])
    with Image.open(io.BytesIO(data)) as picture:
        assert '"image": "cat.png"' in str(picture.info.get("prompt"))
