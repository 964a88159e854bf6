"""`run` against small servers that behave like ComfyUIs of several kinds."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from process import command
from rich.console import Console
from yarl import URL

from proxy.cli import follower
from proxy.cli.comfy import Comfy
from proxy.cli.common import CommandError
from proxy.cli.outputs import require_writable
from proxy.cli.progress import Display
from proxy.cli.run import CANCELLED, Outcome, run_graph
from proxy.cli.workflows import assignment_of, load_workflow, value_of

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Keep"}},
}


@dataclass
class FakeComfy:
    """A ComfyUI with one job, which runs when `release` is set (or at once)."""

    outputs: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]] | bytes] = field(default_factory=list)
    own_id: str | None = None
    refusal: dict[str, Any] | None = None
    error: tuple[str, dict[str, Any]] | None = None
    state: str = "pending"
    after_submission: str = "done"
    drop_sockets: bool = False
    calls: list[tuple[str, Any]] = field(default_factory=list)
    submitted: asyncio.Event = field(default_factory=asyncio.Event)
    prompt_id: str = ""
    url: URL = field(default_factory=URL)
    sockets: list[web.WebSocketResponse] = field(default_factory=list)

    async def start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/ws", self.socket)
        app.router.add_post("/prompt", self.prompt)
        app.router.add_get("/history/{id}", self.history)
        app.router.add_get("/queue", self.queue)
        app.router.add_post("/queue", self.act)
        app.router.add_post("/interrupt", self.act)
        app.router.add_get("/view", self.view)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
        return runner

    async def socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "status", "data": {"sid": request.query["clientId"]}})
        self.sockets.append(socket)
        async for message in socket:
            self.calls.append(("flags", json.loads(message.data)))
        return socket

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.calls.append(("prompt", body))
        if self.refusal is not None:
            return web.json_response(self.refusal, status=400)
        self.prompt_id = self.own_id or body["prompt_id"]
        self.state = self.after_submission
        for event in self.events:
            await self.send(event)
        if self.drop_sockets:
            for socket in self.sockets:
                await socket.close()
        self.submitted.set()
        return web.json_response({"prompt_id": self.prompt_id, "number": 0, "node_errors": {}})

    async def send(self, event: tuple[str, dict[str, Any]] | bytes) -> None:
        for socket in self.sockets:
            if isinstance(event, bytes):
                await socket.send_bytes(event)
            else:
                data = {"prompt_id": self.prompt_id, **event[1]}
                await socket.send_json({"type": event[0], "data": data})

    async def history(self, request: web.Request) -> web.Response:
        if self.state != "done" or request.match_info["id"] != self.prompt_id:
            return web.json_response({})
        status = {"status_str": "success", "completed": True, "messages": []}
        if self.error:
            status = {"status_str": "error", "completed": False, "messages": [self.error]}
        return web.json_response({self.prompt_id: {"outputs": self.outputs, "status": status}})

    async def queue(self, request: web.Request) -> web.Response:
        item = [0, self.prompt_id, {}, {}, []]
        return web.json_response(
            {
                "queue_running": [item] if self.state == "running" else [],
                "queue_pending": [item] if self.state == "pending" else [],
            }
        )

    async def act(self, request: web.Request) -> web.Response:
        self.calls.append((request.path, await request.json()))
        self.state = "gone"
        return web.Response()

    async def view(self, request: web.Request) -> web.Response:
        self.calls.append(("view", dict(request.query)))
        name = request.query["filename"]
        return (
            web.Response(body=self.files[name]) if name in self.files else web.Response(status=404)
        )


@pytest.fixture
async def comfy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeComfy]:
    for name in ("POLL_FIRST", "POLL_WITH_SOCKET", "POLL_WITHOUT_SOCKET", "POLL_AT_THE_END"):
        monkeypatch.setattr(follower, name, 0.02)
    fake = FakeComfy()
    runner = await fake.start()
    yield fake
    await runner.cleanup()


async def ran(
    comfy: FakeComfy, folder: Path, server: str = "", outcome: Outcome | None = None
) -> tuple[int, str]:
    text, outcome = io.StringIO(), outcome or Outcome()
    display = Display(GRAPH, Console(file=text, width=200))
    require_writable(folder)
    async with Comfy.at(server or str(comfy.url)) as client:
        await run_graph(client, GRAPH, folder, display, outcome)
    return CANCELLED if outcome.status == "cancelled" else 0, text.getvalue()


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def image(name: str, **about: str) -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": "output", **about}


async def test_every_output_is_saved_once(comfy: FakeComfy, tmp_path: Path) -> None:
    comfy.files = {"a.png": b"picture", "b.mp4": b"film", "c.png": b"passing"}
    comfy.outputs = {
        "2": {"images": [image("a.png", subfolder="sub")], "text": ["said"], "animated": [True]},
        "3": {"video": [image("b.mp4")], "videos": [image("b.mp4")]},
        "4": {"images": [image("c.png", type="temp")]},
    }
    code, text = await ran(comfy, tmp_path)
    assert code == 0
    assert (tmp_path / "sub" / "a.png").read_bytes() == b"picture"
    assert (tmp_path / "b.mp4").read_bytes() == b"film"
    assert (tmp_path / "c.png").read_bytes() == b"passing"
    assert f"3 files in {tmp_path}" in text
    assert "text  said" in text


async def test_what_is_in_the_folder_is_not_overwritten(comfy: FakeComfy, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"mine")
    comfy.files = {"a.png": b"new"}
    comfy.outputs = {"2": {"images": [image("a.png")]}}
    await ran(comfy, tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    assert (tmp_path / "a (1).png").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../evil.png", "/etc/evil.png", "..\\evil.png", "C:\\evil.png"])
async def test_no_name_leads_out_of_the_folder(comfy: FakeComfy, tmp_path: Path, name: str) -> None:
    comfy.files = {name: b"x"}
    comfy.outputs = {"2": {"images": [image(name, subfolder="../..")]}}
    await ran(comfy, tmp_path / "out")
    assert names_in(tmp_path / "out") == ["evil.png"]


async def test_an_output_that_is_not_given_fails(comfy: FakeComfy, tmp_path: Path) -> None:
    comfy.outputs = {"2": {"images": [image("gone.png")]}}
    with pytest.raises(CommandError, match=r"gone.png cannot be downloaded \(status 404\)"):
        await ran(comfy, tmp_path)
    assert names_in(tmp_path) == []


async def test_a_folder_that_cannot_be_written_is_named_before_anything_is_submitted(
    comfy: FakeComfy, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "workflow.json").write_text(json.dumps(GRAPH))
    words = ("run", str(tmp_path / "workflow.json"), "--server", str(comfy.url))
    code, _, err = await command(*words, "--output", str(tmp_path / "file" / "output"))
    assert code == 1
    assert re.search(r"cannot be written .* with --output", err)
    assert comfy.calls == []


async def test_nodes_steps_and_previews_are_shown(comfy: FakeComfy, tmp_path: Path) -> None:
    ours = json.dumps({"node_id": "1", "image_type": "image/jpeg"}).encode()
    other = json.dumps({"node_id": "1", "prompt_id": "another"}).encode()
    comfy.events = [
        ("execution_start", {}),
        ("executing", {"node": "1", "display_node": "1"}),
        ("progress", {"node": "1", "value": 2, "max": 4}),
        struct.pack(">II", 1, 1) + b"\xff\xd8\xff",
        struct.pack(">II", 4, len(ours)) + ours + b"\xff\xd8\xff",
        struct.pack(">II", 4, len(other)) + other + b"\xff\xd8\xff",
        struct.pack(">II", 3, 1) + b"1text",
        ("progress", {"node": "1", "value": 4, "max": 4}),
        ("executing", {"node": "2", "display_node": "2"}),
        ("executing", {"node": None}),
    ]
    _, text = await ran(comfy, tmp_path)
    assert "done  EmptyImage (1)  4/4 steps  2 previews" in text
    assert 'done  SaveImage (2) "Keep"' in text
    assert "0 files and 2 live previews" in text


async def test_one_preview_is_one(comfy: FakeComfy, tmp_path: Path) -> None:
    comfy.events = [
        ("executing", {"node": "1"}),
        struct.pack(">II", 1, 1) + b"\xff\xd8\xff",
        ("executing", {"node": None}),
    ]
    _, text = await ran(comfy, tmp_path)
    assert "done  EmptyImage (1)  1 preview  " in text
    assert "0 files and 1 live preview\n" in text


async def test_previews_with_metadata_are_asked_for(comfy: FakeComfy, tmp_path: Path) -> None:
    await ran(comfy, tmp_path)
    flags = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
    assert ("flags", flags) in comfy.calls


async def test_events_of_other_jobs_are_ignored(comfy: FakeComfy, tmp_path: Path) -> None:
    comfy.events = [("executing", {"node": "1", "prompt_id": "another"})]
    _, text = await ran(comfy, tmp_path)
    assert "EmptyImage" not in text


async def test_a_dropped_websocket_is_survived(comfy: FakeComfy, tmp_path: Path) -> None:
    comfy.drop_sockets = True
    comfy.after_submission = "running"
    comfy.files, comfy.outputs = {"a.png": b"x"}, {"2": {"images": [image("a.png")]}}
    task = asyncio.create_task(ran(comfy, tmp_path))
    await comfy.submitted.wait()
    comfy.state = "done"
    assert (await task)[0] == 0
    assert (tmp_path / "a.png").exists()


async def test_a_server_may_choose_the_id(comfy: FakeComfy, tmp_path: Path) -> None:
    comfy.own_id = "chosen-by-the-server"
    comfy.events = [("execution_cached", {"nodes": ["1"]})]
    code, text = await ran(comfy, tmp_path)
    assert code == 0
    assert "cached EmptyImage (1)" in text


async def test_a_failed_node_is_named_with_its_error(comfy: FakeComfy, tmp_path: Path) -> None:
    data = {"node_id": "2", "exception_type": "ValueError", "exception_message": "no room\n"}
    comfy.error = ("execution_error", data)
    with pytest.raises(CommandError) as raised:
        await ran(comfy, tmp_path)
    assert str(raised.value) == 'SaveImage (2) "Keep" failed: ValueError: no room'
    assert raised.value.exit_code == 1


async def test_a_refusal_is_printed_node_by_node(comfy: FakeComfy, tmp_path: Path) -> None:
    wrong = {"type": "value_not_in_list", "message": "Value not in list", "details": "width: 0"}
    comfy.refusal = {
        "error": {"type": "x", "message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"1": {"class_type": "EmptyImage", "errors": [wrong]}},
    }
    with pytest.raises(CommandError) as raised:
        await ran(comfy, tmp_path)
    assert str(raised.value).splitlines() == [
        "refused: Prompt outputs failed validation",
        "EmptyImage (1)",
        "    Value not in list: width: 0",
    ]


async def test_a_workflow_that_was_not_taken_has_a_type_and_no_id(
    comfy: FakeComfy, tmp_path: Path, unused_tcp_port: int
) -> None:
    outcome = Outcome()
    info = {"node_id": "1", "class_type": "Upscaler9", "node_title": "Sharper"}
    missing = {"type": "missing_node_type", "message": "Node 'Sharper' not found.", "details": ""}
    comfy.refusal = {"error": {**missing, "extra_info": info}, "node_errors": {}}
    with pytest.raises(CommandError) as raised:
        await ran(comfy, tmp_path, outcome=outcome)
    assert str(raised.value) == "refused: Node 'Sharper' not found. - class Upscaler9"
    assert (outcome.prompt_id, outcome.error_type) == ("", "missing_node_type")
    comfy.url = URL(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(CommandError):
        await ran(comfy, tmp_path, outcome=outcome)
    assert outcome.prompt_id == ""


async def test_a_workflow_that_failed_has_the_type_of_its_error(
    comfy: FakeComfy, tmp_path: Path
) -> None:
    ends = {
        "ValueError": ("execution_error", {"exception_type": "ValueError"}),
        "execution_interrupted": ("execution_interrupted", {}),
    }
    for type_, comfy.error in ends.items():
        outcome = Outcome()
        with pytest.raises(CommandError):
            await ran(comfy, tmp_path, outcome=outcome)
        assert (outcome.prompt_id, outcome.error_type) == (comfy.prompt_id, type_)


@pytest.mark.parametrize(("state", "route"), [("pending", "/queue"), ("running", "/interrupt")])
async def test_cancelling_cancels_the_job(
    comfy: FakeComfy, tmp_path: Path, state: str, route: str
) -> None:
    comfy.after_submission = state
    task = asyncio.create_task(ran(comfy, tmp_path))
    await comfy.submitted.wait()
    task.cancel()
    code, text = await task
    assert (code, text.strip()) == (130, "cancelled")
    body = {"delete": [comfy.prompt_id]} if state == "pending" else {"prompt_id": comfy.prompt_id}
    assert comfy.calls[-1] == (route, body)


async def test_a_job_that_vanished_is_reported(comfy: FakeComfy, tmp_path: Path) -> None:
    comfy.after_submission = "gone"
    with pytest.raises(CommandError, match="no longer has job"):
        await ran(comfy, tmp_path)


async def test_a_server_that_is_not_there_is_named(
    comfy: FakeComfy, tmp_path: Path, unused_tcp_port: int
) -> None:
    comfy.url = URL(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(CommandError, match=f"There is no ComfyUI at {comfy.url}"):
        await ran(comfy, tmp_path)


async def test_a_server_needs_no_scheme(comfy: FakeComfy, tmp_path: Path) -> None:
    server = f"127.0.0.1:{comfy.url.port}"
    assert (await ran(comfy, tmp_path, server))[0] == 0


async def test_what_is_no_address_is_refused(comfy: FakeComfy, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not an address") as raised:
        await ran(comfy, tmp_path, "ftp://x")
    assert raised.value.exit_code == 2


# --- workflows as files ---


def loaded(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "workflow.json"
    path.write_text(text)
    return load_workflow(path)


def test_seeds_beyond_64_bits_survive(tmp_path: Path) -> None:
    text = '{"1": {"class_type": "X", "inputs": {"seed": 36893488147419103232}}}'
    graph = loaded(tmp_path, text).converted({})
    assert graph["1"]["inputs"]["seed"] == 1 << 65


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ('{"nodes": [], "links": [], "version": 0.4}', "has no enabled node"),
        ('{"nodes": [{"id": 1, "type": "X", "inputs": [{"link": {}}]}]}', "is damaged"),
        ("{", "is not JSON"),
        ("[]", "contains no workflow"),
        ("{}", "contains no workflow"),
        ('{"1": {"inputs": {}}}', "contains no workflow"),
    ],
)
def test_what_is_no_workflow_is_refused(tmp_path: Path, text: str, output: str) -> None:
    with pytest.raises(CommandError) as raised:
        loaded(tmp_path, text).converted({})
    assert output in str(raised.value)
    assert raised.value.exit_code == 2


def test_a_missing_workflow_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"none.json cannot be read"):
        load_workflow(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("assignment", "node", "name", "value"),
    [
        ("3.seed=42", "3", "seed", 42),
        ("3.seed=18446744073709551616", "3", "seed", 1 << 64),
        ("3.text=a cat = a pet", "3", "text", "a cat = a pet"),
        ('3.text="42"', "3", "text", "42"),
        ("3.text=", "3", "text", ""),
        ('3.seed=["1", 0]', "3", "seed", ["1", 0]),
        ("1.0.2.seed=1", "1.0.2", "seed", 1),
        ("3.size.width=1", "3", "size.width", 1),
    ],
)
async def test_an_input_gets_another_value(
    assignment: str, node: str, name: str, value: Any
) -> None:
    inputs = {"seed": 0, "text": "", "size.width": 0}
    graph = {key: {"class_type": "X", "inputs": dict(inputs)} for key in ("3", "1.0.2")}
    found = assignment_of(graph, assignment)
    assert (found.node, found.input) == (node, name)
    assert await value_of(found, graph, not_uploaded) == value


async def not_uploaded(path: Path) -> str:
    raise AssertionError(path)


TWO = {
    "3": {"class_type": "X", "inputs": {"seed": 0, "text": "", "model": ["4", 0]}},
    "4": {
        "class_type": "Loader v1.5",
        "inputs": {"name": "a", "image": "b.png"},
        "_meta": {"title": "Photo. Of me"},
    },
    "5": {
        "class_type": "X",
        "inputs": {"seed": 0, "image": ["4", 0]},
        "_meta": {"title": "Refine"},
    },
}


@pytest.mark.parametrize(
    ("target", "node", "name"),
    [
        ("4.name", "4", "name"),
        ("Loader v1.5.name", "4", "name"),
        ("Photo. Of me.name", "4", "name"),
        ("Refine.seed", "5", "seed"),
        ("X.text", "3", "text"),
        ("text", "3", "text"),
        ("image", "4", "image"),
    ],
)
def test_a_node_is_named_by_id_title_class_or_by_its_input(
    target: str, node: str, name: str
) -> None:
    assert assignment_of(TWO, f"{target}=1") == (node, name, "1")


@pytest.mark.parametrize("target", ["seed", "X.seed"])
def test_several_nodes_that_fit_are_listed(target: str) -> None:
    with pytest.raises(CommandError, match=r"matches several nodes: use the id of one, 3 \(X\), 5"):
        assignment_of(TWO, f"{target}=1")


async def test_random_is_a_seed_in_the_place_of_a_number_alone() -> None:
    seeds = {await value_of(assignment_of(TWO, "3.seed=random"), TWO, not_uploaded) for _ in "abc"}
    assert len(seeds) == 3
    assert all(0 <= seed < 1 << 32 for seed in seeds)
    assert await value_of(assignment_of(TWO, "text=random"), TWO, not_uploaded) == "random"


@pytest.mark.parametrize(
    ("assignment", "output"),
    [
        ("3.seed", "is not NODE.INPUT=VALUE"),
        ("=1", "is not NODE.INPUT=VALUE"),
        ("9.seed=1", "the nodes are: 3 (X)"),
        ("3.sed=1", "the inputs of node 3 (X) are: seed"),
        ("sed=1", "the inputs of the nodes are: seed"),
    ],
)
def test_an_assignment_without_a_target_is_refused(assignment: str, output: str) -> None:
    with pytest.raises(CommandError) as raised:
        assignment_of({"3": {"class_type": "X", "inputs": {"seed": 0}}}, assignment)
    assert output in str(raised.value)
