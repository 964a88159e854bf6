"""Programs in the pattern of chat front ends, plug-ins and bots that draw with a local ComfyUI."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import aiohttp
import graphs
import pytest
from yarl import URL

websocket = pytest.importorskip("websocket", reason="websocket-client is not installed")


async def poll_all_history(
    session: aiohttp.ClientSession, server: URL, graph: dict[str, Any]
) -> dict[str, Any]:
    """Submit as `text/plain` and read the whole history every 100 ms, as a chat front end does."""
    body = json.dumps({"prompt": graph})
    async with session.post(server / "prompt", data=body) as answer:
        prompt_id = (await answer.json())["prompt_id"]
    while True:
        async with session.get(server / "history") as answer:
            if (entry := (await answer.json()).get(prompt_id)) is not None:
                return dict(entry)
        await asyncio.sleep(0.1)


async def test_a_chat_front_end_polls_the_history(
    server: URL, session: aiohttp.ClientSession
) -> None:
    entry = await poll_all_history(session, server, graphs.sampled(31))
    assert entry["status"]["status_str"] == "success"
    [picture] = [item for output in entry["outputs"].values() for item in output["images"]]
    unescaped = "&".join(f"{key}={picture[key]}" for key in ("filename", "subfolder", "type"))
    async with session.get(f"{server}/view?{unescaped}", allow_redirects=False) as answer:
        assert (answer.status, answer.content_type) == (200, "image/png")


async def test_a_chat_front_end_reads_the_error_out_of_the_history(
    server: URL, session: aiohttp.ClientSession
) -> None:
    entry = await poll_all_history(session, server, graphs.raising())
    assert entry["status"]["status_str"] == "error"
    errors = [data for type_, data in entry["status"]["messages"] if type_ == "execution_error"]
    assert [f"{error['node_type']} {error['exception_message']}" for error in errors] == [
        "SimulatorRaise boom\n"
    ]


def test_a_front_end_without_a_key_sends_an_empty_bearer(server: URL) -> None:
    client_id = str(uuid.uuid4())
    socket = websocket.WebSocket()
    url = (server.with_scheme("ws") / "ws").with_query(clientId=client_id)
    socket.connect(str(url), header={"Authorization": "Bearer "}, timeout=60)
    request = Request(
        str(server / "prompt"),
        data=json.dumps({"prompt": graphs.plain(31), "client_id": client_id}).encode(),
        headers={"User-Agent": "Mozilla/5.0", "Authorization": "Bearer "},
    )
    with urlopen(request) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    while True:
        message = socket.recv()
        event = json.loads(message) if isinstance(message, str) else {"type": "picture"}
        if event["type"] == "executing" and event["data"] == {"node": None, "prompt_id": prompt_id}:
            break
    socket.close()
    with urlopen(str(server / "history" / prompt_id)) as answer:
        assert "2" in json.load(answer)[prompt_id]["outputs"]


async def test_a_plug_in_looks_the_server_over_before_it_is_used(
    server: URL, session: aiohttp.ClientSession
) -> None:
    async with session.get(server / "system_stats") as answer:
        assert (await answer.json())["devices"][0]["type"] == "cuda"
    async with session.get(server / "object_info") as answer:
        nodes = await answer.json()
    assert nodes["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0]
    assert nodes["KSampler"]["input"]["required"]["sampler_name"][0]
    async with session.get(server / "api/a_node_pack/models") as answer:
        assert answer.status == 404


async def test_a_bot_shares_one_client_id_among_its_jobs(
    server: URL, session: aiohttp.ClientSession
) -> None:
    url = (server / "ws").with_query(clientId="the bot")
    async with session.ws_connect(url) as socket:
        waiting = set()
        for seed in (41, 42, 43):
            body = {"prompt": graphs.sampled(seed, steps=2), "client_id": "the bot"}
            async with session.post(server / "prompt", json=body) as answer:
                waiting.add((await answer.json())["prompt_id"])
        async for message in socket:
            event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {}
            if event.get("type") == "executing" and event["data"]["node"] is None:
                waiting.remove(event["data"]["prompt_id"])
            if not waiting:
                break
    assert waiting == set()


async def test_an_upload_may_have_its_flag_as_a_file(
    server: URL, session: aiohttp.ClientSession
) -> None:
    names = []
    for color in ((1, 2, 3), (4, 5, 6)):
        form = aiohttp.FormData()
        form.add_field("image", graphs.png(color), filename="bot.png", content_type="image/png")
        form.add_field("overwrite", b"True", filename="overwrite")
        async with session.post(server / "upload/image", data=form) as answer:
            names.append((await answer.json())["name"])
    assert names == ["bot.png", "bot (1).png"]
    async with session.get(f"{server}/view?filename={quote(names[0])}&type=input") as answer:
        assert await answer.read() == graphs.png((1, 2, 3))
