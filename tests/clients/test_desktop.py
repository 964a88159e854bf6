"""The Blender add-on and the Houdini bridge: the calls of their own code, recorded."""

from __future__ import annotations

import io
import json
from typing import Any

import aiohttp
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
    assert [(one["name"], one["path"]) for one in listed] == [
        ("scale.json", "workflows/scale.json")
    ]
    assert workflow == saved["body"]["json"]
    assert uploaded["name"] == "mine.png"
    assert size(picture) == (64, 48)
    told = {data["node"]: data["output"] for data in listener.of("executed")}
    assert told == {
        "4": {"images": [{"filename": "blender_00001_.png", "subfolder": "", "type": "output"}]},
        "6": {"text": ["a cat"]},
    }


async def test_the_houdini_bridge_polls_for_its_results_and_cancels(
    recorded: Recorded, client: Client
) -> None:
    calls = calls_of("houdini")
    found = await answers(calls, recorded, client)
    by_path = {call["path"].partition("?")[0]: one for call, one in zip(calls, found, strict=True)}
    (entry,) = next(
        one.values()
        for call, one in zip(calls, found, strict=True)
        if call["path"].startswith("/history/")
    )
    file = {"filename": "out_00001_.png", "subfolder": "houdini", "type": "output"}
    assert entry["outputs"] == {"3": {"images": [file]}, "5": {"images": [file]}}
    pictures = [one for call, one in zip(calls, found, strict=True) if "/view" in call["path"]]
    assert [size(one) for one in pictures] == [(16, 12)] * 2
    assert by_path["/queue"] == {"queue_running": [], "queue_pending": []}
    notes = by_path["/sidefx_houdini/messages/get"]["messages"]
    assert [note[1:] for note in notes] == [
        ["refresh_all", None],
        ["refresh", {"image": "a.png"}],
        ["create_loader", {"image": "a.png"}],
    ]
