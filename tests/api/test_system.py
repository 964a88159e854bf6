"""What a client asks about the server itself, and its log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import graphs
import pytest
import structlog
from aiohttp.test_utils import TestClient
from quiet import logging_restored
from stack import Client as StackClient
from stack import Listener, running_proxy

from proxy import logging as logs
from proxy.api.content import SAFETY_HEADERS
from proxy.api.journal import MAX_LINES, Journal
from proxy.files.uploads import MAX_BYTES
from proxy.jobs.clients import Clients
from proxy.jobs.subscribers import Subscribers
from proxy.runtime.supervisor import Supervisor
from proxy.simulator import Simulator
from proxy.translate import COMFYUI
from proxy.translate.errors import LocalError
from proxy.translate.events import Event, Message

Client = TestClient[Any, Any]
SUBGRAPH = {"source": "templates", "name": "X", "info": {"node_pack": "y"}}


async def test_the_stats_have_what_clients_read(client: Client) -> None:
    stats = await (await client.get("/system_stats")).json()
    assert all(type(stats["system"][key]) is int for key in ("ram_total", "ram_free"))
    assert stats["system"]["comfyui_version"] == COMFYUI
    (device,) = stats["devices"]
    assert (device["type"], device["index"]) == ("cuda", 0)
    assert type(device["name"]) is str
    assert all(type(device[key]) is int for key in ("vram_total", "vram_free"))


async def test_the_announced_limit_is_the_real_one(serve: Any) -> None:
    client = await serve(max_upload_bytes=1000)
    limit = (await (await client.get("/features")).json())["max_upload_size"]
    async with client.ws_connect("/ws") as socket:
        await socket.receive_json()
        await socket.send_json({"type": "feature_flags", "data": {}})
        assert (await socket.receive_json())["data"]["max_upload_size"] == limit
    for path in ("/userdata/x", "/settings/x", "/upload/image"):
        headers = {"Content-Type": "multipart/form-data; boundary=b"} if "up" in path else {}
        within = await client.post(path, data=b"1" * limit, headers=headers)
        beyond = await client.post(path, data=b"1" * (limit + 1), headers=headers)
        assert (within.status != 413, beyond.status) == (True, 413)


async def test_the_features_announce_the_limit_and_no_long_texts(serve: Any) -> None:
    client = await serve(max_upload_bytes=1000)
    features = await (await client.get("/features")).json()
    assert (features["max_upload_size"], features["supports_preview_metadata"]) == (1000, True)
    assert "supports_progress_text_metadata" not in features


@pytest.mark.parametrize("pays", [True, False])
async def test_who_need_not_pay_need_not_sign_in(serve: Any, pays: bool) -> None:
    client = await serve(pays_partner_nodes=pays)
    features = await (await client.get("/features")).json()
    assert features["partner_run_gate_enabled"] is not pays
    async with client.ws_connect("/ws") as socket:
        await socket.receive_json()
        await socket.send_json({"type": "feature_flags", "data": {}})
        assert (await socket.receive_json())["data"] == features


async def test_no_more_is_announced_than_the_cloud_takes(serve: Any) -> None:
    client = await serve(max_upload_bytes=2 * MAX_BYTES)
    features = await (await client.get("/features")).json()
    assert features["max_upload_size"] == MAX_BYTES


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/healthz", {"status": "ok"}),
        ("/users", {"storage": "server", "migrated": True}),
        ("/i18n", {}),
        ("/workflow_templates", {}),
        ("/node_replacements", {"Old": [{"new_node_id": "New"}]}),
        ("/global_subgraphs", {"x": SUBGRAPH}),
        ("/global_subgraphs/x", {**SUBGRAPH, "data": "{}"}),
        ("/global_subgraphs/y", None),
        ("/object_info", {"LoadImage": {}}),
        ("/object_info/LoadImage", {"LoadImage": {}}),
        ("/object_info/NoSuchNode", {}),
        ("/object_info/Oracle%20x", {}),
        ("/models", ["loras"]),
        ("/models/loras", ["a.safetensors"]),
        ("/embeddings", ["bad-hands"]),
        ("/experiment/models", [{"name": "loras", "folders": ["loras"]}]),
        ("/experiment/models/loras", [{"name": "a.safetensors", "pathIndex": 0}]),
    ],
)
async def test_a_plain_answer(client: Client, path: str, answer: Any) -> None:
    response = await client.get(path)
    assert (response.status, await response.json()) == (200, answer)


@pytest.mark.parametrize(
    "path", ["/models/nope", "/experiment/models/nope", "/view_metadata/loras?filename=x"]
)
async def test_an_unknown_folder_is_404_without_a_body(client: Client, path: str) -> None:
    response = await client.get(path)
    assert (response.status, await response.read()) == (404, b"")
    assert "Content-Type" not in response.headers


@pytest.mark.parametrize("name", ["a.safetensors", "a.safetensors.webp"])
async def test_a_model_may_have_a_picture(client: Client, name: str) -> None:
    response = await client.get(f"/experiment/models/preview/loras/0/{name}")
    assert (response.status, await response.read()) == (200, b"picture")
    assert response.headers["Content-Type"] == "image/webp"
    assert {name: response.headers[name] for name in SAFETY_HEADERS} == SAFETY_HEADERS


async def test_a_picture_of_the_cloud_that_a_browser_would_run_is_an_attachment(
    client: Client, room_of_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def preview(folder: str, index: int, file: str) -> tuple[bytes, str]:
        return b"<svg onload='alert(1)'/>", "image/svg+xml"

    monkeypatch.setattr(room_of_nodes, "preview", preview)
    response = await client.get("/experiment/models/preview/loras/0/a.safetensors")
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Content-Disposition"] == "attachment"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("loras/1/a.safetensors", 404),
        ("loras/-1/a.safetensors", 404),
        ("loras/x/a.safetensors", 400),
        ("loras/0/b.safetensors", 404),
        ("nope/0/a.safetensors", 404),
        ("loras/0/", 404),
    ],
)
async def test_a_picture_that_is_not_to_be_had(client: Client, path: str, status: int) -> None:
    response = await client.get(f"/experiment/models/preview/{path}")
    assert (response.status, await response.read()) == (status, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/etn/languages",
        "/vhs/queryvideo?filename=x.mp4",
        "/vhs/getpath?path=x",
        "/manager/queue/status",
        "/api/manager/version",
        "/v2/manager/queue/status",
        "/customnode/getmappings?mode=local",
        "/externalmodel/getlist",
        "/pysssss/autocomplete",
        "/api/pysssss/workflows",
        "/rgthree/api/config",
        "/easyuse/version",
        "/impact/wildcards/list",
        "/crystools/monitor",
    ],
)
async def test_node_packs_that_are_not_there_have_no_routes(client: Client, path: str) -> None:
    response = await client.get(path)
    assert (response.status, await response.read()) == (404, b"")
    posted = await client.post(path, json={})
    assert (posted.status, posted.headers["Allow"]) == (405, "GET,HEAD")


async def test_a_video_has_the_names_that_the_cloud_has_for_it(
    client: Client, room_of_files: Any
) -> None:
    room_of_files.add("clip.mp4", b"video")
    for path in ("/viewvideo", "/api/vhs/viewvideo", "/vhs/viewaudio"):
        response = await client.get(path, params={"filename": "clip.mp4", "format": "video/mp4"})
        assert (response.status, await response.read()) == (200, b"video")
        assert response.headers["Content-Type"] == "video/mp4"


async def test_the_members_files_go_into_the_catalog(
    client: Client, room_of_files: Any, room_of_nodes: Any
) -> None:
    room_of_files.add("cat.png", type_="input")
    room_of_files.add("dog.png", type_="output")
    await client.get("/object_info")
    assert list(room_of_nodes.files) == ["cat.png"]


async def test_a_catalog_that_is_not_to_be_had_is_503(client: Client, room_of_nodes: Any) -> None:
    room_of_nodes.refusal = LocalError("catalog_unavailable", "Try again.", kind="unavailable")
    response = await client.get("/object_info")
    assert (response.status, (await response.json())["error"]["message"]) == (503, "Try again.")


@pytest.mark.parametrize("body", ["{}", '{"unload_models": true, "free_memory": "yes"}'])
async def test_freeing_memory_does_nothing(client: Client, body: str) -> None:
    response = await client.post("/free", data=body)
    assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize("body", ["[]", ""])
async def test_freeing_memory_wants_an_object(client: Client, body: str) -> None:
    assert (await client.post("/free", data=body)).status == 400


SECRET = "comfyui-0123456789abcdef"


class Sink:
    """A socket that remembers."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.asks_for_previews = False

    def send(self, message: Message, *, for_all: bool) -> None:
        self.received.append(message)

    def superseded(self) -> None:
        pass


@pytest.fixture
def logging_on() -> Iterator[None]:
    """The proxy's logging as `serve` sets it up, into nowhere."""
    with logging_restored():
        logs.configure(stream=io.StringIO())
        yield


@pytest.fixture
async def program(
    logging_on: None, simulator: Simulator, tmp_path: Path, session: aiohttp.ClientSession
) -> Any:
    async with running_proxy(simulator, tmp_path / "data") as proxy:
        yield StackClient(session, proxy.url)


async def test_the_log_of_a_job_can_be_read(program: StackClient) -> None:
    await program.run(graphs.plain())
    _, text = await program.get("internal/logs")
    _, raw = await program.get("internal/logs/raw")
    assert raw.keys() == {"entries", "size"}
    assert raw["size"].keys() == {"cols", "rows"}
    assert text == "".join(f"{line['t']} - {line['m']}" for line in raw["entries"])
    (accepted,) = (line for line in raw["entries"] if "accepted" in line["m"])
    assert accepted["m"].endswith("\n")
    assert abs(datetime.fromisoformat(accepted["t"]) - datetime.now()).seconds < 60  # noqa: DTZ005


async def test_new_lines_come_on_the_websocket_as_long_as_they_are_wanted(
    program: StackClient,
) -> None:
    url = program.url / "internal/logs/subscribe"

    async def want(enabled: bool) -> None:
        body = {"clientId": program.client_id, "enabled": enabled}
        async with program.session.patch(url, json=body) as answer:
            assert (answer.status, await answer.read()) == (200, b"")

    async with program.listening() as listener, program.listening(client_id="other") as other:
        await want(True)
        await program.submit(graphs.plain())
        data = await listener.until("logs")
        assert data["size"] is None
        assert [entry.keys() for entry in data["entries"]] == [{"t", "m"}]
        await _to_the_end(listener)
        await want(False)
        second = await program.submit(graphs.plain(2))
        await listener.until_end(second)
        await _to_the_end(other)
        assert second not in str(listener.of("logs"))
        assert not other.of("logs")


async def _to_the_end(listener: Listener) -> None:
    await listener.until("status", status={"exec_info": {"queue_remaining": 0}})


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"clientId": 1, "enabled": true}', '{"clientId": "a"}']
)
async def test_a_subscription_says_whose_and_whether(client: Client, body: str) -> None:
    answer = await client.patch("/internal/logs/subscribe", data=body)
    assert (answer.status, (await answer.json()).keys()) == (400, {"error", "node_errors"})


async def test_anyone_may_subscribe_before_there_is_a_socket(client: Client) -> None:
    body = json.dumps({"clientId": "nobody", "enabled": True})
    assert (await client.patch("/internal/logs/subscribe", data=body)).status == 200


async def test_each_member_has_its_own_lines_and_the_rest_are_nobodys(logging_on: None) -> None:
    journal = Journal(Subscribers(Clients(), Supervisor()))
    log = structlog.get_logger("proxy.test")
    with logs.forwarded_lines(journal.add):
        log.info("started")
        log.info("of ann", member="ann", key=SECRET)
        with structlog.contextvars.bound_contextvars(member="bob"):
            logging.getLogger("library").warning("of %s, with %s", "bob", SECRET)
            try:
                raise ValueError(SECRET)
            except ValueError:
                await asyncio.to_thread(log.exception, "failed")
    log.info("later", member="ann")
    (ann,) = journal.lines("ann")
    assert re.fullmatch(r"\[info +\] of ann .*key=\[removed\]\n", ann["m"])
    library, failed = journal.lines("bob")
    assert "of bob, with [removed]" in library["m"]
    assert "failed" in failed["m"]
    assert "Traceback" not in failed["m"]
    assert journal.lines("local") == []


async def test_old_lines_go() -> None:
    journal = Journal(Subscribers(Clients(), Supervisor()))
    for number in range(MAX_LINES + 5):
        journal.add("local", 0.0, str(number))
    assert [line["m"] for line in journal.lines("local")][:: MAX_LINES - 1] == [
        "5\n",
        f"{MAX_LINES + 4}\n",
    ]


async def test_members_hear_their_own_lines_alone() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    journal = Journal(subscribers)
    ann, bob = Sink(), Sink()
    subscribers.attach("ann", "a", ann)
    subscribers.attach("bob", "a", bob)
    journal.subscribe("ann", "a")
    await asyncio.to_thread(journal.add, "ann", 0.0, "x")
    await asyncio.to_thread(journal.add, "bob", 0.0, "y")
    await asyncio.sleep(0)
    (message,) = ann.received
    assert isinstance(message, Event)
    assert message.data["entries"][0]["m"] == "x\n"
    assert bob.received == []


async def test_a_socket_that_has_gone_is_unsubscribed() -> None:
    subscribers = Subscribers(Clients(), Supervisor())
    journal = Journal(subscribers)
    journal.subscribe("local", "a")
    journal.add("local", 0.0, "x")
    await asyncio.sleep(0)
    sink = Sink()
    subscribers.attach("local", "a", sink)
    journal.add("local", 0.0, "y")
    await asyncio.sleep(0)
    assert sink.received == []


async def test_the_folders_are_those_of_the_catalog(client: Client) -> None:
    assert await (await client.get("/internal/folder_paths")).json() == {"loras": ["loras"]}


async def test_the_members_files_are_listed_newest_first(program: StackClient) -> None:
    for name in ("a.png", "b.png", ".hidden.png"):
        await program.upload(name, graphs.png())
    await program.upload("c.png", graphs.png(), subfolder="sub")
    assert await program.get("internal/files/input") == (200, ["b.png", "a.png"])
    assert await program.get("internal/files/output") == (200, [])


@pytest.mark.parametrize("type_", ["user", "..", "models"])
async def test_there_are_three_folders(client: Client, type_: str) -> None:
    answer = await client.get(f"/internal/files/{type_}".replace("..", "%252e%252e"))
    assert (answer.status, await answer.json()) == (400, {"error": "Invalid directory type"})


@pytest.mark.parametrize("path", ["/internal", "/internal/", "/internal/nope", "/internal/files/"])
async def test_what_is_unknown_is_404_with_a_text(client: Client, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, await answer.text()) == (404, "404: Not Found")


async def test_another_method_is_not_allowed(client: Client) -> None:
    answer = await client.post("/internal/logs", data="{}")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
    assert (await client.get("/internal/logs/subscribe")).status == 405


async def test_there_is_no_twin(client: Client) -> None:
    answer = await client.get("/api/internal/logs")
    assert (answer.status, await answer.read()) == (404, b"")
