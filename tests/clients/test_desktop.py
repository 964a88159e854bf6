"""The Blender add-on and the Houdini bridge: the calls of their own code, recorded."""

from __future__ import annotations

import io
import json
from typing import Any

import aiohttp
import graphs
import pytest
from clients.recorded import Call, Recorded, calls_of
from PIL import Image
from stack import Client, Proxy
from waiting import until_ended


@pytest.fixture
def recorded(proxy: Proxy, session: aiohttp.ClientSession) -> Recorded:
    return Recorded(session, proxy.url)


async def answers(calls: list[Call], recorded: Recorded, client: Client) -> list[Any]:
    """The answers, parsed where they are JSON. A result is asked for when the job has ended."""
    found = []
    for call in calls:
        if call["path"].startswith(("/view", "/history/", "/queue")):
            await until_ended(client, recorded.submitted)
        answer = await recorded.call(call)
        try:
            found.append(json.loads(answer))
        except ValueError:
            found.append(answer)
    return found


def files(outputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs with what the programs read of files."""
    kept = ("filename", "subfolder", "type")
    return {
        node: {
            key: [
                {name: value[name] for name in kept} if isinstance(value, dict) else value
                for value in executed
            ]
            for key, executed in output.items()
        }
        for node, output in outputs.items()
    }


def size(picture: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.size


async def test_the_blender_add_on_finds_workflows_and_gets_its_results(
    recorded: Recorded, client: Client
) -> None:
    opened, saved, *calls = calls_of("blender")
    await recorded.call(saved)
    client_id = opened["open"].partition("clientId=")[2]
    async with client.listening(client_id=client_id) as listener:
        listed, workflow, uploaded, _, picture = await answers(calls, recorded, client)
        await listener.until_end(recorded.prompt_id)
    assert [(item["name"], item["path"]) for item in listed] == [
        ("scale.json", "workflows/scale.json")
    ]
    assert workflow == saved["body"]["json"]
    assert uploaded["name"] == "mine.png"
    assert size(picture) == (64, 48)
    executed = files({data["node"]: data["output"] for data in listener.of("executed")})
    assert executed == {
        "4": {"images": [{"filename": "blender_00001_.png", "subfolder": "", "type": "output"}]},
        "6": {"text": ["a cat"]},
    }


async def test_the_houdini_bridge_polls_for_its_results_and_cancels(
    recorded: Recorded, client: Client
) -> None:
    calls = calls_of("houdini")
    found = await answers(calls, recorded, client)
    by_path = {
        call["path"].partition("?")[0]: answer for call, answer in zip(calls, found, strict=True)
    }
    (entry,) = next(
        answer.values()
        for call, answer in zip(calls, found, strict=True)
        if call["path"].startswith("/history/")
    )
    file = {"filename": "out_00001_.png", "subfolder": "houdini", "type": "output"}
    assert files(entry["outputs"]) == {"3": {"images": [file]}, "5": {"images": [file]}}
    pictures = [
        answer for call, answer in zip(calls, found, strict=True) if "/view" in call["path"]
    ]
    assert [size(picture) for picture in pictures] == [(16, 12)] * 2
    assert by_path["/queue"] == {"queue_running": [], "queue_pending": []}
    notes = by_path["/sidefx_houdini/messages/get"]["messages"]
    assert [note[1:] for note in notes] == [
        ["refresh_all", None],
        ["refresh", {"image": "a.png"}],
        ["create_loader", {"image": "a.png"}],
    ]


async def test_swarmui_takes_frames_for_results_where_they_are_announced(client: Client) -> None:
    """As `AwaitJobLive` of its ComfyUI backend (commit 062407c) reads a websocket."""
    _, info = await client.get("object_info")
    assert {"SwarmLoadImageB64", "SwarmSaveImageWS"} <= info.keys()
    assert isinstance(info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0], list)
    graph: dict[str, Any] = {
        **graphs.sampled(31),
        "9": {"class_type": "SwarmSaveImageWS", "inputs": {"images": ["8", 0]}},
    }
    for run in range(2):
        async with client.listening({"supports_preview_metadata": True}) as listener:
            prompt_id = await client.submit(graph)
            await listener.until_end(prompt_id)
        mine = receiving = False
        node, results, previews = "", [], 0
        for type_, data in listener.received:
            if type_ == "execution_start":
                mine = mine or data["prompt_id"] == prompt_id
            elif type_ == "executing" and mine and data["node"] is not None:
                node = data["node"]
            elif type_ == "progress" and mine:
                receiving = data["max"] in (12345, 12346, 12347)
            elif type_ == "binary" and receiving:
                results.append((node, data))
            elif type_ == "binary":
                previews += 1
        ((node, frame),) = results
        assert node == "9"
        assert frame[:8] == bytes((0, 0, 0, 1, 0, 0, 0, 2))
        assert size(frame[8:]) == (64, 64)
        assert bool(previews) == (run == 0)


async def test_swarmui_interrupts_with_bodies_that_are_called_text(
    client: Client, session: aiohttp.ClientSession
) -> None:
    async with client.listening() as listener:
        prompt_id = await client.submit(graphs.waiting())
        await listener.until("executing")
        for path, body in (
            ("queue", {"delete": [prompt_id]}),
            ("interrupt", {"prompt_id": prompt_id}),
            ("history", {"delete": [prompt_id]}),
        ):
            headers = {"Content-Type": "text/plain; charset=utf-8"}
            async with session.post(
                client.url / path, data=json.dumps(body), headers=headers
            ) as answer:
                assert answer.status == 200
        await listener.until("execution_interrupted", prompt_id=prompt_id)
