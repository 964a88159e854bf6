"""Programs in the pattern of ComfyUI's own script examples: urllib and `websocket-client`."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import graphs
import pytest
from clients.workflows import over_the_websocket
from PIL import Image
from yarl import URL

websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")


class Script:
    """What each of the scripts begins with. No body of it has a `Content-Type` of its own."""

    def __init__(self, server: URL) -> None:
        self.server = server
        self.client_id = str(uuid.uuid4())

    def post_prompt(self, **body: Any) -> dict[str, Any]:
        request = Request(str(self.server / "prompt"), data=json.dumps(body).encode())
        with urlopen(request) as answer:
            return dict(json.load(answer))

    def queue_prompt(self, graph: dict[str, Any]) -> str:
        return str(self.post_prompt(prompt=graph, client_id=self.client_id)["prompt_id"])

    def history(self, prompt_id: str) -> dict[str, Any]:
        with urlopen(str(self.server / "history" / prompt_id)) as answer:
            return dict(json.load(answer))

    def view(self, item: dict[str, str]) -> bytes:
        with urlopen(f"{self.server}/view?{urlencode(item)}") as answer:
            return bytes(answer.read())

    def follow(self, socket: Any, prompt_id: str) -> Iterator[tuple[str, Any]]:
        """What comes up to the end of a run: the node that runs and a picture, or a node alone."""
        node = ""
        while True:
            message = socket.recv()
            if isinstance(message, bytes):
                yield node, message[8:]
                continue
            event = json.loads(message)
            if event["type"] == "executing" and event["data"].get("prompt_id") == prompt_id:
                if event["data"]["node"] is None:
                    return
                node = event["data"]["node"]
                yield node, None


@pytest.fixture
def script(server: URL) -> Script:
    return Script(server)


@pytest.fixture
def socket(script: Script) -> Iterator[Any]:
    opened = websocket.WebSocket()
    url = script.server.with_scheme("ws") / "ws"
    opened.connect(str(url.with_query(clientId=script.client_id)), timeout=60)
    yield opened
    opened.close()


def test_a_script_follows_a_run_and_fetches_its_pictures(script: Script, socket: Any) -> None:
    prompt_id = script.queue_prompt(graphs.sampled(11, steps=4))
    followed = list(script.follow(socket, prompt_id))
    outputs = script.history(prompt_id)[prompt_id]["outputs"]
    pictures = [script.view(item) for item in outputs["9"]["images"]]
    assert [Image.open(io.BytesIO(picture)).size for picture in pictures] == [(64, 64)]
    assert [node for node, picture in followed if picture is None][-1] == "9"
    assert all(Image.open(io.BytesIO(picture)) for _, picture in followed if picture is not None)


def test_one_socket_serves_run_after_run(script: Script, socket: Any) -> None:
    for seed in (21, 22):
        prompt_id = script.queue_prompt(graphs.sampled(seed))
        list(script.follow(socket, prompt_id))
        assert script.history(prompt_id)[prompt_id]["status"]["completed"] is True


def test_a_script_takes_its_results_from_the_websocket(script: Script, socket: Any) -> None:
    prompt_id = script.queue_prompt(over_the_websocket(graphs.sampled(12, steps=4)))
    results = [
        picture
        for node, picture in script.follow(socket, prompt_id)
        if node == "9" and picture is not None
    ]
    assert [Image.open(io.BytesIO(result)).format for result in results] == ["PNG"]
    assert script.history(prompt_id)[prompt_id]["outputs"] == {}


def test_a_script_submits_without_a_client_id(script: Script) -> None:
    answer = script.post_prompt(prompt=graphs.sampled(13))
    assert set(answer) == {"prompt_id", "number", "node_errors"}
    while not (history := script.history(answer["prompt_id"])):
        pass
    assert history[answer["prompt_id"]]["outputs"]["9"]["images"][0]["type"] == "output"
