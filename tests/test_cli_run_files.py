"""`run` as people use it: their files, a proxy and the simulator behind it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from PIL import Image
from process import TIMEOUT, Process, before, child, command, serving
from stack import Proxy, running_proxy
from terminal import at_terminal

from proxy.cli import run
from proxy.cli.run import Outcome
from proxy.simulator import Simulator, Switches

EXAMPLE = Path(__file__).parent.parent / "examples" / "text-to-image.json"
DRAWING = Path(__file__).parent / "browser" / "workflow.json"
PLAIN = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 5},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "plain"}},
}


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    async with (
        Simulator(switches=Switches(pace=0.001)) as simulator,
        running_proxy(simulator, tmp_path / "data") as running,
    ):
        yield running


def picture(folder: Path, name: str, **texts: str) -> Path:
    """A picture of that name with texts in it as ComfyUI writes them."""
    from PIL.PngImagePlugin import PngInfo

    path, image = folder / name, Image.new("RGB", (64, 64), "red")
    if path.suffix == ".png":
        info = PngInfo()
        for key, text in texts.items():
            info.add_text(key, text)
        image.save(path, pnginfo=info)
    else:
        exif = image.getexif()
        for tag, (key, text) in zip((0x0110, 0x010F), texts.items(), strict=False):
            exif[tag] = f"{key}:{text}"
        image.save(path, exif=exif)
    return path


async def ran(
    proxy: Proxy | Process, folder: Path, *words: str, **environment: str
) -> tuple[int, list[dict[str, Any]], str]:
    """Run workflows; the exit code, the results and what was said beside them."""
    place = ("--server", str(proxy.url), "--output", str(folder / "out"), "--json")
    code, out, err = await command("run", *words, *place, environment=environment or None)
    return code, [json.loads(line) for line in out.splitlines()], err


async def test_a_file_of_the_editor_runs_with_an_upload_and_a_random_seed(
    proxy: Proxy, tmp_path: Path
) -> None:
    photo = picture(tmp_path, "photo.png")
    words = ("--set", f"Sketch.image=@{photo}", "--set", "KSampler.seed=random")
    code, (result,), err = await ran(proxy, tmp_path, str(DRAWING), *words)
    assert code == 0, err
    assert result["status"] == "success"
    assert result["values"]["4.image"] == "photo.png"
    assert result["values"]["6.seed"] != 20250101
    (saved,) = result["files"]
    with Image.open(saved) as image:
        graph = json.loads(image.info["prompt"])
    assert graph["6"]["inputs"]["seed"] == result["values"]["6.seed"]
    assert graph["4"]["inputs"]["image"] == "photo.png"
    assert graph["6"]["inputs"]["steps"] == 20


async def test_a_saved_picture_runs_again(proxy: Proxy, tmp_path: Path) -> None:
    _, (first,), _ = await ran(proxy, tmp_path, str(EXAMPLE))
    words = (first["files"][0], "--set", "5.steps=3")
    code, (again,), err = await ran(proxy, tmp_path, *words)
    assert code == 0, err
    with Image.open(again["files"][0]) as image:
        assert json.loads(image.info["prompt"])["5"]["inputs"]["steps"] == 3


@pytest.mark.parametrize(
    ("name", "key"), [("a.png", "prompt"), ("a.webp", "prompt"), ("a.png", "workflow")]
)
async def test_pictures_hold_either_format(
    proxy: Proxy, tmp_path: Path, name: str, key: str
) -> None:
    text = json.dumps(PLAIN) if key == "prompt" else DRAWING.read_text()
    words = ("--set", f"image=@{picture(tmp_path, 'b.png')}") if key == "workflow" else ()
    code, (result,), err = await ran(
        proxy, tmp_path, str(picture(tmp_path, name, **{key: text})), *words
    )
    assert (code, result["status"]) == (0, "success"), err


async def test_a_picture_with_broken_exif_is_refused(proxy: Proxy, tmp_path: Path) -> None:
    photo = picture(tmp_path, "photo.webp", prompt="{}")
    photo.write_bytes(photo.read_bytes().replace(b"II*\0", b"????").replace(b"MM\0*", b"????"))
    code, results, err = await ran(proxy, tmp_path, str(photo))
    assert (code, results) == (2, [])
    assert "cannot be used" in err


async def test_the_workflow_may_lie_beside_a_picture_without_one(
    proxy: Proxy, tmp_path: Path
) -> None:
    empty = str(picture(tmp_path, "a.png"))
    code, results, err = await ran(proxy, tmp_path, empty)
    assert (code, results) == (2, [])
    assert f"The picture {empty} contains no workflow" in err
    (tmp_path / "a.json").write_text(json.dumps(PLAIN))
    assert (await ran(proxy, tmp_path, empty))[0] == 0


async def test_several_files_run_in_order_and_one_that_fails_stops_none(
    proxy: Proxy, tmp_path: Path
) -> None:
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text(json.dumps({"1": {"class_type": "NoSuchNode", "inputs": {}}}))
    good.write_text(json.dumps(PLAIN))
    code, results, err = await ran(proxy, tmp_path, str(bad), str(good))
    assert code == 1
    assert [(result["workflow"], result["status"]) for result in results] == [
        (str(bad), "error"),
        (str(good), "success"),
    ]
    assert results[0]["error"] in err
    assert "NoSuchNode" in err


async def test_a_workflow_comes_over_standard_input(proxy: Proxy, tmp_path: Path) -> None:
    words = ("run", "-", "--server", str(proxy.url), "--output", str(tmp_path / "out"))
    async with child("-m", "proxy", *words, stdin=json.dumps(PLAIN).encode()) as process:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate()
    assert process.returncode == 0, err
    assert b"saved plain_00001_.png" in out


async def test_new_files_of_a_folder_are_run(proxy: Proxy, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "old.json").write_text(json.dumps(PLAIN))
    place = ("--server", str(proxy.url), "--output", str(tmp_path / "out"))
    async with at_terminal("run", "--watch", str(inbox), *place) as terminal:
        await terminal.shows("watching")
        (inbox / "new.json").write_text(json.dumps(PLAIN))
        (inbox / "note.txt").write_text("no workflow")
        await terminal.shows("saved plain_00001_.png")
        (inbox / "broken.json").write_text("{")
        await terminal.shows("broken.json is not JSON")
        (inbox / "more.json").write_text(json.dumps(PLAIN))
        await terminal.shows("saved plain_00002_.png")
        terminal.process.send_signal(signal.SIGINT)
        assert await terminal.ended() == 130
    assert "old.json" not in terminal.text
    assert "note.txt" not in terminal.text


@asynccontextmanager
async def relayed(proxy: Proxy) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """An address that leads to the proxy, and what breaks all its connections."""
    writers: list[asyncio.StreamWriter] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", proxy.url.port)
        writers.extend((writer, back))
        await asyncio.gather(copy(reader, back), copy(there, writer))

    def cut() -> None:
        server.close()
        for writer in writers:
            writer.transport.abort()

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", cut
    finally:
        cut()


async def test_a_watch_ends_although_a_run_swallows_the_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a connection may that fails at the same moment."""

    async def swallowing(*_: Any) -> tuple[Outcome, int]:
        asyncio.current_task().cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60.0)
        return Outcome(), 0

    monkeypatch.setattr(run, "_run_one", swallowing)
    monkeypatch.setattr(run, "LOOK_INTERVAL", 0.01)
    (tmp_path / "inbox").mkdir()
    request = run.Request((), "http://127.0.0.1:9", tmp_path / "out", watch=tmp_path / "inbox")
    running = asyncio.create_task(run._run_all(request, ()))
    while not running.done():
        (tmp_path / "inbox" / f"{uuid4()}.json").write_text(json.dumps(PLAIN))
        await asyncio.wait([running], timeout=0.1)
    assert running.result() == 130


@pytest.mark.parametrize("shown", ["waiting", "running", "saved"])
async def test_a_watch_ends_with_ctrl_c_while_its_connections_break(
    proxy: Proxy, tmp_path: Path, shown: str
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    async with relayed(proxy) as (url, cut):
        place = ("--server", url, "--output", str(tmp_path / "out"))
        async with at_terminal("run", "--watch", str(inbox), *place) as terminal:
            await terminal.shows("watching")
            (inbox / "new.json").write_text(json.dumps(PLAIN))
            await terminal.shows(shown)
            terminal.process.send_signal(signal.SIGINT)
            cut()
            assert await terminal.ended() == 130


async def test_a_workflow_is_run_for_each_new_file(proxy: Proxy, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    place = ("--server", str(proxy.url), "--output", str(tmp_path / "out"))
    words = ("run", str(DRAWING), "--watch", str(inbox), "--set", "Sketch.image=@{}")
    async with at_terminal(*words, *place) as terminal:
        await terminal.shows("watching")
        picture(inbox, "photo.png")
        await terminal.shows("set   4.image = photo.png", "saved lighthouse_00001_.png")


async def test_outputs_do_not_come_back_as_work(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, _, err = await ran(proxy, tmp_path, "--watch", str(tmp_path / "out"))
    assert code == 2
    assert "choose another folder with --output" in err


async def test_a_gateway_takes_the_token_from_a_file_or_the_environment(tmp_path: Path) -> None:
    place = ("--data-dir", str(tmp_path / "data"))
    workflow = tmp_path / "plain.json"
    workflow.write_text(json.dumps(PLAIN))
    await command("member", "add", "ann", *place)
    _, token, _ = await command("token", "new", "ann", *place)
    (tmp_path / "token").write_text(token)
    async with (
        Simulator() as simulator,
        serving(tmp_path / "data", environment=before(simulator)) as proxy,
    ):
        code, _, err = await ran(proxy, tmp_path, str(workflow))
        assert code == 1
        assert "requires a token: set --token-file" in err
        named = ("--token-file", str(tmp_path / "token"))
        assert (await ran(proxy, tmp_path, str(workflow), *named))[0] == 0
        assert (await ran(proxy, tmp_path, str(workflow), COMFY_TOKEN=token.strip()))[0] == 0
        assert (await ran(proxy, tmp_path, str(workflow), *named, COMFY_TOKEN="x"))[0] == 0


async def test_the_place_in_the_queue_is_shown(tmp_path: Path) -> None:
    slow = {**json.loads(EXAMPLE.read_text())}
    slow["5"]["inputs"]["steps"] = 6000
    (tmp_path / "slow.json").write_text(json.dumps(slow))
    async with (
        Simulator(plan="standard", switches=Switches(pace=0.1)) as simulator,
        serving(tmp_path / "data", environment=before(simulator)) as proxy,
    ):
        place = ("--server", str(proxy.url), "--output", str(tmp_path / "out"))
        words = ("-m", "proxy", "run", str(tmp_path / "slow.json"), *place)
        async with child(*words, errors=False) as first:
            assert first.stdout is not None
            async with asyncio.timeout(TIMEOUT):
                while b"EmptyLatentImage" not in await first.stdout.readline():
                    pass
            async with child(*words, errors=False) as second:
                assert second.stdout is not None
                async with asyncio.timeout(TIMEOUT):
                    assert await second.stdout.readline() == b"waiting, 1 job ahead\n"


@pytest.mark.parametrize(
    ("answers", "mark"),
    [
        ({"\x1b[c": "\x1b[?62;4c"}, r"\x1bP"),
        # but for the question whether the terminal can
        ({"\x1b[c": "\x1b[?62c", "\x1b_Gi=": "\x1b_Gi=1;OK\x1b\\"}, r"\x1b_G(?![^;]*a=q)"),
    ],
    ids=["sixel", "kitty"],
)
async def test_pictures_are_shown_where_the_terminal_can(
    proxy: Proxy, tmp_path: Path, answers: dict[str, str], mark: str
) -> None:
    place = ("--server", str(proxy.url), "--output", str(tmp_path / "out"))
    before_saving = after_saving = ""
    async with asyncio.timeout(TIMEOUT):
        # It waits a tenth of a second for an answer, which a busy machine may miss.
        while not re.search(mark, before_saving):
            async with at_terminal("run", str(EXAMPLE), *place, answers=answers) as terminal:
                assert await terminal.ended() == 0
            before_saving, _, after_saving = terminal.text.partition("saved ")
    assert re.search(mark, after_saving)


async def test_no_color_has_neither_colors_nor_pictures(proxy: Proxy, tmp_path: Path) -> None:
    place = ("--server", str(proxy.url), "--output", str(tmp_path / "out"))
    environment = {"NO_COLOR": "1"}
    async with at_terminal("run", str(EXAMPLE), *place, environment=environment) as terminal:
        assert await terminal.ended() == 0
    assert "\x1b[3" not in terminal.text
    assert "\x1b[c" not in terminal.text
