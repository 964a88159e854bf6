"""What happens in a run, in which order."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

import gated
import pytest
from oracle_nodes import ORACLE_NODES

from proxy.simulator.execution import (
    Cached,
    NodeCache,
    NodeDone,
    NodeFailed,
    NodeStarted,
    Step,
    execute,
)
from proxy.simulator.nodes import NodeClass, Output, standard_nodes
from proxy.simulator.validation import validate

CATALOG = standard_nodes() | {node.name: node for node in ORACLE_NODES}
EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 4, "batch_size": 1, "color": 255},
}


class MemoryContents:
    """Files by the hash of their bytes, in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.saved: list[tuple[str, str, str]] = []

    def load(self, name: str) -> bytes:
        return self.files[name]

    def save(
        self,
        data: bytes,
        *,
        extension: str,
        prefix: str,
        type: str,  # noqa: A002
        node_id: str,
    ) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest() + extension
        self.files[name] = data
        self.saved.append((prefix, type, node_id))
        return {"filename": name, "subfolder": "", "type": type}


class Bench:
    """Runs graphs with one catalog, one set of files and one cache."""

    def __init__(self, *extra: NodeClass) -> None:
        self.catalog = CATALOG | {node.name: node for node in extra}
        self.contents = MemoryContents()
        self.cache: NodeCache | None = None
        self.pace = 0.0
        self.extra_data: dict[str, Any] = {}

    def start(self, graph: dict[str, Any], targets: list[str] | None = None) -> Any:
        found = validate(
            graph,
            catalog=self.catalog,
            targets=targets,
            files=self.contents.files.__contains__,
        )
        assert found.error is None, found
        return execute(
            graph,
            found.outputs,
            catalog=self.catalog,
            contents=self.contents,
            extra_data=self.extra_data,
            pace=self.pace,
            cache=self.cache,
        )

    async def run(self, graph: dict[str, Any], targets: list[str] | None = None) -> list[Step]:
        async with contextlib.aclosing(self.start(graph, targets)) as steps:
            return [step async for step in steps]


def save(source: str, prefix: str = "x") -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": prefix}}


def preview(source: str) -> dict[str, Any]:
    return {"class_type": "PreviewImage", "inputs": {"images": [source, 0]}}


def sampling(steps: int = 3, side: int = 64) -> dict[str, Any]:
    """ComfyUI's default workflow, smaller."""
    text = {"class_type": "CLIPTextEncode", "inputs": {"text": "a purple hill", "clip": ["4", 1]}}
    return {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 2**64 - 1,
                "steps": steps,
                "cfg": 8,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1,
                "model": ["4", 0],
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "4": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "v1-5-pruned-emaonly-fp16.safetensors"},
        },
        "5": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": side, "height": side, "batch_size": 1},
        },
        "6": text,
        "7": text,
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": save("8"),
    }


def named(steps: Sequence[Step]) -> list[str]:
    return [f"{type(step).__name__} {getattr(step, 'node_id', '')}".strip() for step in steps]


async def test_an_output_runs_as_soon_as_it_can() -> None:
    fail = {"class_type": "OracleRaise", "inputs": {"kind": "ValueError", "message": "boom"}}
    graph = {
        "1": EMPTY,
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": fail | {"inputs": fail["inputs"] | {"image": ["2", 0]}},  # type: ignore[operator]
        "4": save("3"),
        "5": save("1"),
    }
    assert named(await Bench().run(graph)) == [
        "Cached",
        "NodeStarted 1",
        "NodeDone 1",
        "NodeStarted 5",
        "NodeDone 5",
        "NodeStarted 2",
        "NodeDone 2",
        "NodeStarted 3",
        "NodeFailed 3",
    ]


async def test_a_node_that_raises_ends_the_run_in_comfyuis_words() -> None:
    graph = {
        "1": EMPTY,
        "2": {
            "class_type": "OracleRaise",
            "inputs": {"kind": "ValueError", "message": "boom", "image": ["1", 0]},
        },
        "3": preview("2"),
    }
    failed = (await Bench().run(graph))[-1]
    assert isinstance(failed, NodeFailed)
    assert (failed.node_id, failed.node_type) == ("2", "OracleRaise")
    assert (failed.exception_type, failed.exception_message) == ("ValueError", "boom\n")
    assert failed.current_inputs == {
        "kind": ["ValueError"],
        "message": ["boom"],
        "image": ["Images(1 x 8x4)"],
    }
    assert failed.current_outputs == ["1", "2", "3"]
    assert "oracle_nodes.py" in failed.traceback[-1]
    assert not any('File "/' in frame for frame in failed.traceback)


def node(name: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": name, "inputs": inputs}


async def test_jobs_that_run_at_the_same_time_take_nothing_from_each_other() -> None:
    opened = asyncio.Event()
    bench = Bench(gated.gate(opened))
    bench.cache = NodeCache()
    graph = {"2": EMPTY, "3": save("2")}
    async with contextlib.aclosing(bench.start({**gated.GRAPH, **graph})) as steps:
        begun = [await anext(steps), await anext(steps)]
        assert begun == [Cached([]), NodeStarted("1")]
        await bench.run(graph)
        opened.set()
        rest = [step async for step in steps]
    assert [step.node_id for step in rest if isinstance(step, NodeStarted)] == ["2", "3"]
    assert not any(step.cached for step in rest if isinstance(step, NodeDone))


async def test_only_what_changed_runs_again() -> None:
    bench = Bench()
    bench.cache = NodeCache()
    await bench.run({"1": EMPTY, "2": save("1")})
    assert named(await bench.run({"1": EMPTY, "2": save("1", "y")})) == [
        "Cached",
        "NodeStarted 2",
        "NodeDone 2",
    ]


async def test_a_cancel_stops_the_running_node() -> None:
    stopped = asyncio.Event()

    async def run(_inputs: dict[str, Any], _context: object) -> Output:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return Output()

    started = asyncio.Event()

    async def follow() -> None:
        bench = Bench(NodeClass("Stuck", run, output_node=True))
        async with contextlib.aclosing(bench.start({"1": node("Stuck")})) as steps:
            async for step in steps:
                if isinstance(step, NodeStarted):
                    started.set()

    task = asyncio.create_task(follow())
    await asyncio.wait_for(started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_pace_is_the_time_of_a_step() -> None:
    bench = Bench()
    bench.pace = 0.02
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await bench.run(sampling(steps=3))
    assert loop.time() - begun >= 0.06


async def test_hidden_inputs_are_those_of_the_job() -> None:
    bench = Bench()
    seen: dict[str, Any] = {}

    async def run(inputs: dict[str, Any], _context: object) -> Output:
        seen.update(inputs)
        return Output()

    look = NodeClass(
        "Look",
        run,
        hidden={
            "prompt": "PROMPT",
            "pnginfo": "EXTRA_PNGINFO",
            "id": "UNIQUE_ID",
            "key": "API_KEY_COMFY_ORG",
            "token": "AUTH_TOKEN_COMFY_ORG",
        },
        output_node=True,
    )
    bench.catalog["Look"] = look
    bench.extra_data = {"extra_pnginfo": {"workflow": {"id": "w"}}, "api_key_comfy_org": "k"}
    graph = {"7": node("Look")}
    await bench.run(graph)
    assert seen == {
        "prompt": graph,
        "pnginfo": {"workflow": {"id": "w"}},
        "id": "7",
        "key": "k",
        "token": None,
    }
