"""Graphs in which several nodes compute the same: ComfyUI runs the first of them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stack import TIMEOUT, Client, running_proxy

from proxy.engine.policy import DetailTimeouts
from proxy.simulator import Simulator

EMPTY = {"width": 8, "height": 8, "batch_size": 1, "color": 255}
PICTURE = {"class_type": "EmptyImage", "inputs": EMPTY}

#: So long a job waits for outputs that the cloud has not got ready: longer than a test does.
PATIENT = {"detail": DetailTimeouts(settle=2 * TIMEOUT)}


def _saved(source: str, prefix: str) -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": prefix}}


def _shown(source: str) -> dict[str, Any]:
    return {"class_type": "PreviewAny", "inputs": {"source": [source, 0]}}


FILES = {"1": PICTURE, "2": PICTURE, "3": _saved("1", "a"), "4": _saved("2", "b")}
TEXT = {"class_type": "PrimitiveString", "inputs": {"value": "hello"}}
TEXTS = {"1": TEXT, "2": TEXT, "3": _shown("1"), "4": _shown("2")}
NOTHING = {
    "1": PICTURE,
    "2": PICTURE,
    "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    "4": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2", 0]}},
}


@pytest.mark.parametrize(
    ("graph", "shown"),
    [(FILES, {"3", "4"}), (TEXTS, {"3", "4"}), (NOTHING, set())],
    ids=["files", "texts", "nothing"],
)
async def test_the_second_one_is_executed_with_null_and_is_not_in_the_history(
    simulator: Simulator,
    session: aiohttp.ClientSession,
    tmp_path: Path,
    graph: dict[str, Any],
    shown: set[str],
) -> None:
    async with running_proxy(simulator, tmp_path, policy=PATIENT) as proxy:
        client = Client(session, proxy.url)
        async with asyncio.timeout(TIMEOUT), client.listening() as listener:
            prompt_id = await client.submit(graph)
            await listener.until_end(prompt_id)
        outputs = {data["node"]: data["output"] for data in listener.of("executed")}
        assert outputs.keys() >= {"2", *shown}
        assert outputs.pop("2") is None
        assert "2" not in {data["node"] for data in listener.of("executing")}
        entry = await client.history(prompt_id)
        assert entry["outputs"] == {node: outputs[node] for node in shown}
        assert entry["meta"].keys() == shown
        _, job = await client.get(f"api/jobs/{prompt_id}")
        assert job["outputs"] == entry["outputs"]


async def test_the_cloud_may_not_tell_of_the_second_one(
    simulator: Simulator, client: Client
) -> None:
    simulator.switches.executed_null = False
    entry = await client.run(FILES)
    assert entry["outputs"].keys() == {"3", "4"}
