"""The log and the folders, for the web interface."""

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
from stack import Client, Listener, running_proxy

from proxy import logging as logs
from proxy.api.journal import KEPT, Journal
from proxy.jobs.hub import Hub
from proxy.simulator import Simulator
from proxy.translate.messages import Event, Message

Small = TestClient[Any, Any]
SECRET = "comfyui-0123456789abcdef"


class Sink:
    """A socket that remembers."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.asks_for_previews = False

    def send(self, message: Message, *, for_all: bool) -> None:
        self.heard.append(message)

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
        yield Client(session, proxy.url)


async def test_the_log_of_a_job_can_be_read(program: Client) -> None:
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
    program: Client,
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
async def test_a_subscription_says_whose_and_whether(client: Small, body: str) -> None:
    answer = await client.patch("/internal/logs/subscribe", data=body)
    assert (answer.status, (await answer.json()).keys()) == (400, {"error", "node_errors"})


async def test_anyone_may_subscribe_before_there_is_a_socket(client: Small) -> None:
    body = json.dumps({"clientId": "nobody", "enabled": True})
    assert (await client.patch("/internal/logs/subscribe", data=body)).status == 200


async def test_each_member_has_its_own_lines_and_the_rest_are_nobodys(logging_on: None) -> None:
    journal = Journal(Hub())
    log = structlog.get_logger("proxy.test")
    with logs.lines_told(journal.add):
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
    journal = Journal(Hub())
    for number in range(KEPT + 5):
        journal.add("local", 0.0, str(number))
    assert [line["m"] for line in journal.lines("local")][:: KEPT - 1] == ["5\n", f"{KEPT + 4}\n"]


async def test_members_hear_their_own_lines_alone() -> None:
    hub = Hub()
    journal = Journal(hub)
    ann, bob = Sink(), Sink()
    hub.attach("ann", "a", ann)
    hub.attach("bob", "a", bob)
    journal.subscribe("ann", "a")
    await asyncio.to_thread(journal.add, "ann", 0.0, "x")
    await asyncio.to_thread(journal.add, "bob", 0.0, "y")
    await asyncio.sleep(0)
    (message,) = ann.heard
    assert isinstance(message, Event)
    assert message.data["entries"][0]["m"] == "x\n"
    assert bob.heard == []


async def test_a_socket_that_has_gone_is_unsubscribed() -> None:
    hub = Hub()
    journal = Journal(hub)
    journal.subscribe("local", "a")
    journal.add("local", 0.0, "x")
    await asyncio.sleep(0)
    sink = Sink()
    hub.attach("local", "a", sink)
    journal.add("local", 0.0, "y")
    await asyncio.sleep(0)
    assert sink.heard == []


async def test_the_folders_are_those_of_the_catalogue(client: Small) -> None:
    assert await (await client.get("/internal/folder_paths")).json() == {"loras": ["loras"]}


async def test_the_members_files_are_listed_newest_first(program: Client) -> None:
    for name in ("a.png", "b.png", ".hidden.png"):
        await program.upload(name, graphs.png())
    await program.upload("c.png", graphs.png(), subfolder="sub")
    assert await program.get("internal/files/input") == (200, ["b.png", "a.png"])
    assert await program.get("internal/files/output") == (200, [])


@pytest.mark.parametrize("type_", ["user", "..", "models"])
async def test_there_are_three_folders(client: Small, type_: str) -> None:
    answer = await client.get(f"/internal/files/{type_}".replace("..", "%252e%252e"))
    assert (answer.status, await answer.json()) == (400, {"error": "Invalid directory type"})


@pytest.mark.parametrize("path", ["/internal", "/internal/", "/internal/nope", "/internal/files/"])
async def test_what_is_unknown_is_404_with_a_text(client: Small, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status, await answer.text()) == (404, "404: Not Found")


async def test_another_method_is_not_allowed(client: Small) -> None:
    answer = await client.post("/internal/logs", data="{}")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
    assert (await client.get("/internal/logs/subscribe")).status == 405


async def test_there_is_no_twin(client: Small) -> None:
    answer = await client.get("/api/internal/logs")
    assert (answer.status, await answer.read()) == (404, b"")
