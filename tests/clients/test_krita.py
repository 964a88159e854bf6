"""Krita AI Diffusion: the calls of its own client, recorded, and what it looks for in the answers.

The plug-in is in no package registry; `../recordings/README.md` says how they were recorded.
"""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from clients.recorded import Call, Recorded, calls_of
from PIL import Image
from stack import Client, Listener, Proxy, running_proxy

from proxy.packs.tooling import KRITA_REQUIRES
from proxy.simulator import Simulator, Switches

CALLS = calls_of("krita")

#: The header of a frame that it takes for a picture of the result.
RESULT = bytes((0, 0, 0, 1, 0, 0, 0, 2))


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    switches = Switches(node_packs=True, pace=0.01, preview_format="png")
    async with Simulator(switches=switches) as running:
        yield running


async def connect(krita: Recorded, client: Client) -> list[Call]:
    """Connect as it does; the calls that come then."""
    rest = iter(CALLS)
    for call in rest:
        if "open" in call:
            async with client.listening(client_id=client_id_of(call)):
                next(rest)
            continue
        answer = json.loads(await krita.call(call))
        if call["path"] == "/object_info":
            required = {name for names in KRITA_REQUIRES.values() for name in names}
            assert required <= answer.keys()
        if "offset=0&limit=8" in call["path"]:
            assert len(answer) - 1 <= 8
            assert answer["_meta"]["total"] >= len(answer) - 1
        if "diffusion_models" in call["path"]:
            break
    return list(rest)


def client_id_of(call: Call) -> str:
    return str(call["open"].partition("clientId=")[2])


def jobs(calls: list[Call]) -> Iterator[list[Call]]:
    """The calls of each job, with the websocket that was opened for it."""
    found: list[Call] = []
    for call in calls:
        if "open" in call and found:
            yield found
            found = []
        if "close" not in call:
            found.append(call)
    yield found


async def test_its_calls_give_the_pictures_of_the_cloud_and_its_checks_pass(
    simulator: Simulator, proxy: Proxy, session: aiohttp.ClientSession
) -> None:
    krita, client = Recorded(session, proxy.url), Client(session, proxy.url)
    kinds = []
    for opened, *calls in jobs(await connect(krita, client)):
        async with client.listening(client_id=client_id_of(opened)) as listener:
            kinds.append(await _job(krita, calls, listener, simulator))
    assert kinds == ["finished"] * 4 + ["interrupted"]


async def _job(krita: Recorded, calls: list[Call], listener: Listener, simulator: Simulator) -> str:
    result, ended = "", "finished"
    for call in calls:
        if call["path"] == "/prompt":
            prompt_id = call["body"]["json"]["prompt_id"]
            assert json.loads(await krita.call(call))["prompt_id"] == prompt_id
            continue
        if call["path"] == "/interrupt":
            await listener.until("progress")
            await krita.call(call)
            await listener.until("execution_interrupted", prompt_id=prompt_id)
            ended = "interrupted"
            continue
        if call["method"] == "GET":
            executed = await listener.until("executed", prompt_id=prompt_id)
            (image,) = executed["output"]["images"]
            assert image["source"] == "http"
            result = image["id"]
            picture = await krita.call(call, f"/api/etn/image/{result}")
            assert pixels(picture) == pixels(made_by(simulator))
            await listener.until_end(prompt_id)
            continue
        await krita.call(call)
    steps = [data["value"] for data in listener.of("progress")]
    assert steps
    previews = [data for type_, data in listener.received if type_ == "binary"]
    assert previews
    assert not any(preview.startswith(RESULT) for preview in previews)
    return ended


def made_by(simulator: Simulator) -> bytes:
    """The picture of the last job."""
    job = list(simulator.jobs.values())[-1]
    ((item,),) = [output["images"] for output in job.outputs.values() if "images" in output]
    return simulator.storage.get(item["filename"])


def pixels(data: bytes) -> tuple[str, tuple[int, int], bytes]:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.mode, picture.size, picture.tobytes()


async def test_connecting_again_is_answered_as_the_first_time(
    tmp_path: Path, session: aiohttp.ClientSession
) -> None:
    """The plug-in checks by itself what the cloud lacks, and its user may turn that off."""
    async with Simulator() as simulator, running_proxy(simulator, tmp_path / "data") as proxy:
        attempt = [call for call in CALLS if call.get("path") in ("/system_stats", "/object_info")]
        answers = []
        for _ in range(3):
            for call in attempt:
                address = proxy.url / call["path"].removeprefix("/")
                async with session.get(address, headers=call["headers"]) as answer:
                    answers.append((answer.status, await answer.read()))
    assert {status for status, _ in answers} == {200}
    assert answers[1] == answers[3] == answers[5]
