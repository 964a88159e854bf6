"""Uploads over HTTP: the cloud's limits in words, memory that stays flat, a store that fails."""

from __future__ import annotations

import io
import json
import random
import re
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
from PIL import Image
from process import Process, before, serving
from stack import Client, Proxy

from proxy.simulator import HttpFault, Simulator
from proxy.storage.database import StorageError
from proxy.storage.files import FileRepository

MB = 1024 * 1024
#: As much of a video as tells that it is one.
FILM = b"\0\0\0\x18ftypisom" + bytes(50)


async def sent(
    client: Client, name: str, data: Any, path: str = "upload/image", **fields: str
) -> tuple[int, Any]:
    """Status and parsed answer of an upload."""
    form = aiohttp.FormData(fields, quote_fields=False)
    form.add_field("image", io.BytesIO(data) if isinstance(data, bytes) else data, filename=name)
    async with client.session.post(client.url / path, data=form) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if text else None


def words(answer: Any) -> str:
    error = answer["error"]
    assert set(error) == {"type", "message", "details", "extra_info"}
    return str(error["message"])


def blank(size: tuple[int, int]) -> bytes:
    target = io.BytesIO()
    Image.new("1", size).save(target, "PNG")
    return target.getvalue()


def silence() -> bytes:
    target = io.BytesIO()
    with wave.open(target, "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    return target.getvalue()


async def test_a_limit_of_pictures_is_none_of_a_video(simulator: Simulator, client: Client) -> None:
    assert (await sent(client, "film.mp4", FILM + bytes(60 * MB)))[0] == 200
    assert simulator.calls["POST /api/assets"] == 1


async def test_a_cloud_that_refuses_a_large_file_unread_is_quoted(
    simulator: Simulator, client: Client
) -> None:
    simulator.faults.add(HttpFault("POST /api/assets", status=413, body="too much for today"))
    status, answer = await sent(client, "film.mp4", FILM + bytes(60 * MB))
    assert status == 413
    assert "Comfy Cloud does not take film.mp4: too much for today: make" in words(answer)


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("talk.flac", b"fLaC" + bytes(50), "audio"),
        ("talk.wav", b"RIFF\0\0\0\0WAVE" + bytes(50), "audio"),
        ("film.mp4", FILM, "videos"),
    ],
)
async def test_a_refusal_of_a_cloud_without_media_names_the_file_and_its_kind(
    simulator: Simulator, client: Client, name: str, data: bytes, word: str
) -> None:
    simulator.switches.upload_kinds = "images"
    simulator.switches.asset_uploads = False
    status, answer = await sent(client, name, data)
    assert status == 400
    assert name in words(answer)
    assert word in words(answer)
    assert await client.get("view", filename=name, type="input") == (404, "")
    simulator.switches.upload_kinds = "media"
    assert (await sent(client, name, data))[0] == 200
    assert await client.view({"filename": name, "type": "input"}) == data


@pytest.mark.parametrize("assets", [True, False])
@pytest.mark.parametrize(
    ("name", "data", "loader", "saver"),
    [
        ("cat.png", blank((8, 8)), ("LoadImage", "image"), ("PreviewImage", "images")),
        ("talk.wav", silence(), ("LoadAudio", "audio"), ("PreviewAudio", "audio")),
        (
            "film.mp4",
            b"\0\0\0\x18ftypisom" + bytes(50),
            ("LoadVideo", "file"),
            ("SaveVideo", "video"),
        ),
    ],
)
async def test_a_file_of_each_kind_is_found_by_its_loader(
    simulator: Simulator,
    client: Client,
    assets: bool,
    name: str,
    data: bytes,
    loader: tuple[str, str],
    saver: tuple[str, str],
) -> None:
    simulator.switches.asset_uploads = assets
    simulator.switches.listed_uploads = "images" if assets else "any"
    assert (await sent(client, name, data))[0] == 200
    settings = {"format": "auto", "codec": "auto", "filename_prefix": "x"}
    settings = settings if saver[0] == "SaveVideo" else {}
    graph = {
        "1": {"class_type": loader[0], "inputs": {loader[1]: name}},
        "2": {"class_type": saver[0], "inputs": {saver[1]: ["1", 0], **settings}},
    }
    assert (await client.run(graph))["status"]["status_str"] == "success"
    ways = {route for route, count in simulator.calls.items() if count and "POST" in route}
    assert ("POST /api/assets" in ways) == (name != "cat.png")
    assert ("POST /api/upload/image" in ways) == (name == "cat.png" or not assets)


@pytest.mark.parametrize("kind", ["input", "temp", "output"])
async def test_the_cloud_gets_every_upload_as_an_input(
    simulator: Simulator, client: Client, kind: str
) -> None:
    status, answer = await sent(client, "cat.png", graphs.png(), type=kind, subfolder="a/b")
    assert answer.pop("asset")["name"] == "cat.png"
    assert (status, answer) == (200, {"name": "cat.png", "subfolder": "a/b", "type": kind})
    assert [asset.tags for asset in simulator.account.library] == [("input",)]
    item = {"filename": "cat.png", "subfolder": "a/b", "type": kind}
    assert await client.view(item) == graphs.png()
    entry = await client.run(graphs.inverted(f"a/b/cat.png [{kind}]"))
    assert entry["status"]["status_str"] == "success"


@pytest.mark.parametrize(
    "fault",
    [
        HttpFault("POST /api/upload/image", reset=True),
        HttpFault("POST /api/upload/image", status=503, body='{"message": "later"}'),
        HttpFault("POST /api/upload/image", reset=True, processed=True),
    ],
    ids=["reset", "503", "no answer"],
)
async def test_a_fault_of_the_cloud_that_passes_is_not_noticed(
    simulator: Simulator, client: Client, fault: HttpFault
) -> None:
    simulator.faults.add(fault)
    assert (await sent(client, "cat.png", graphs.png()))[0] == 200
    assert await client.view({"filename": "cat.png", "type": "input"}) == graphs.png()


async def test_outputs_are_named_though_the_store_failed_at_first(
    client: Client, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FileRepository.write
    failures = 2

    async def fail_at_first(files: FileRepository, work: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise StorageError("disk full")
        return await write(files, work)

    monkeypatch.setattr(FileRepository, "write", fail_at_first)
    entry = await client.run(graphs.plain())
    assert failures == 0
    (item,) = entry["outputs"]["2"]["images"]
    assert item["filename"] == "ComfyUI_00001_.png"
    assert (await client.view(item)).startswith(b"\x89PNG")


@pytest.fixture
async def process(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Process]:
    async with serving(tmp_path, environment=before(simulator)) as running:
        yield running


def memory(process: Process, field: str) -> int:
    """`VmRSS` (now) or `VmHWM` (at most so far) of a process in bytes."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def pieces(count: int) -> AsyncIterator[bytes]:
    chance = random.Random(count)
    for _ in range(count):
        yield chance.randbytes(MB)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc here")
async def test_memory_stays_flat_while_a_file_comes(
    simulator: Simulator, session: aiohttp.ClientSession, process: Process
) -> None:
    simulator.switches.upload_kinds = "any"
    client = Client(session, process.url)
    assert (await sent(client, "first.png", graphs.png()))[0] == 200
    used = memory(process, "VmRSS")
    assert (await sent(client, "large.bin", pieces(99)))[0] == 200
    assert memory(process, "VmHWM") - used < 24 * MB
