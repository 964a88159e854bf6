"""What happens in a run, in which order."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections.abc import Sequence
from typing import Any

import gated
import pytest
from oracle_nodes import ORACLE_NODES
from PIL import Image

from proxy.simulator.execution import (
    Blocked,
    Cached,
    NodeCache,
    NodeDone,
    NodeFailed,
    NodeStarted,
    Step,
    StepPicture,
    StepProgress,
    StepText,
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


async def test_a_node_starts_and_is_done_before_those_that_need_it() -> None:
    assert named(await Bench().run({"2": save("1"), "1": EMPTY})) == [
        "Cached",
        "NodeStarted 1",
        "NodeDone 1",
        "NodeStarted 2",
        "NodeDone 2",
    ]


async def test_only_what_the_outputs_need_runs() -> None:
    graph = {"1": EMPTY, "2": save("1"), "3": EMPTY, "4": save("3", "y")}
    steps = await Bench().run(graph, ["4"])
    assert [h.node_id for h in steps if isinstance(h, NodeStarted)] == ["3", "4"]


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


async def test_a_batch_is_saved_as_several_files_of_one_node() -> None:
    bench = Bench()
    batch = EMPTY | {"inputs": EMPTY["inputs"] | {"batch_size": 3}}  # type: ignore[operator]
    steps = await bench.run({"1": batch, "2": save("1", "set")})
    done = steps[-1]
    assert isinstance(done, NodeDone)
    assert done.ui is not None
    assert [item["type"] for item in done.ui["images"]] == ["output"] * 3
    assert bench.contents.saved == [("set", "output", "2")] * 3


async def test_only_nodes_with_something_to_show_have_a_ui() -> None:
    first, second = (
        h for h in await Bench().run({"1": EMPTY, "2": preview("1")}) if isinstance(h, NodeDone)
    )
    assert first.ui is None
    assert second.ui is not None


async def test_a_sampler_shows_a_picture_and_its_progress_at_each_step() -> None:
    steps = await Bench().run(sampling(steps=3, side=64))
    mine = [h for h in steps if isinstance(h, StepPicture | StepProgress)]
    assert named(mine) == ["StepPicture 3", "StepProgress 3"] * 3
    assert [(h.value, h.max) for h in mine if isinstance(h, StepProgress)] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    for picture in mine[::2]:
        assert isinstance(picture, StepPicture)
        assert picture.image_type == "image/jpeg"
        assert Image.open(io.BytesIO(picture.image)).format == "JPEG"


async def test_previews_are_at_most_512_pixels_wide_and_high() -> None:
    (picture,) = (
        h for h in await Bench().run(sampling(steps=1, side=1024)) if isinstance(h, StepPicture)
    )
    assert Image.open(io.BytesIO(picture.image)).size == (512, 512)


async def test_the_same_seed_and_text_give_the_same_file() -> None:
    first, second = Bench(), Bench()
    await first.run(sampling())
    await second.run(sampling())
    assert list(first.contents.files) == list(second.contents.files)


@pytest.mark.parametrize(("node", "name", "value"), [("3", "seed", 1), ("6", "text", "a sea")])
async def test_another_seed_or_text_gives_another_file(node: str, name: str, value: object) -> None:
    first, second = Bench(), Bench()
    await first.run(sampling())
    changed = sampling()
    changed[node] = changed[node] | {"inputs": changed[node]["inputs"] | {name: value}}
    await second.run(changed)
    (one,), (other,) = first.contents.files.values(), second.contents.files.values()
    assert Image.open(io.BytesIO(one)).tobytes() != Image.open(io.BytesIO(other)).tobytes()


async def test_pictures_over_the_websocket_are_png_and_count_from_zero() -> None:
    batch = EMPTY | {"inputs": EMPTY["inputs"] | {"batch_size": 2}}  # type: ignore[operator]
    out = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    steps = await Bench().run({"1": batch, "2": out})
    pictures = [h for h in steps if isinstance(h, StepPicture)]
    assert [p.image_type for p in pictures] == ["image/png"] * 2
    assert Image.open(io.BytesIO(pictures[0].image)).size == (8, 4)
    assert [h.value for h in steps if isinstance(h, StepProgress)] == [0, 1]
    assert steps[-1] == NodeDone("2", None)


async def test_a_text_comes_from_the_node_that_sent_it() -> None:
    graph = {
        "node:1": {
            "class_type": "OracleProgressText",
            "inputs": {"text": "héllo", "only_submitter": False, "seed": 0},
        },
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["node:1", 0]}},
    }
    steps = await Bench().run(graph)
    assert StepText("node:1", "héllo") in steps
    assert steps[-1] == NodeDone("2", {"text": ["héllo"]})


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


async def test_the_class_of_an_exception_has_its_module() -> None:
    class OddError(Exception):
        pass

    async def run(_inputs: dict[str, Any], _context: object) -> Output:
        raise OddError("x")

    failed = (await Bench(NodeClass("Odd", run, output_node=True)).run({"1": node("Odd")}))[-1]
    assert isinstance(failed, NodeFailed)
    assert failed.exception_type.startswith(f"{__name__}.")
    assert failed.exception_type.endswith("OddError")


def node(name: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": name, "inputs": inputs}


async def test_a_value_where_a_picture_belongs_fails_at_the_node() -> None:
    failed = (await Bench().run({"2": node("SaveImage", images="x", filename_prefix="p")}))[-1]
    assert isinstance(failed, NodeFailed)
    assert failed.exception_type == "AttributeError"


async def test_a_broken_picture_fails_at_the_node_that_loads_it() -> None:
    bench = Bench()
    bench.contents.files["broken.png"] = b"\x89PNG\r\n\x1a\n\0\0"
    failed = (await bench.run({"1": node("LoadImage", image="broken.png"), "2": save("1")}))[-1]
    assert isinstance(failed, NodeFailed)
    assert failed.node_id == "1"
    assert failed.current_inputs == {"image": ["broken.png"]}


async def test_a_prefix_outside_the_output_folder_fails() -> None:
    failed = (await Bench().run({"1": EMPTY, "2": save("1", "../outside")}))[-1]
    assert isinstance(failed, NodeFailed)
    assert failed.exception_type == "Exception"
    assert "outside the output folder is not allowed" in failed.exception_message


@pytest.mark.parametrize(("message", "messages"), [("why", 1), ("", 0)])
async def test_a_blocked_node_does_not_run(message: str, messages: int) -> None:
    graph = {"1": node("OracleBlock", message=message, seed=1), "2": save("1")}
    bench = Bench()
    steps = await bench.run(graph)
    assert [h.message for h in steps if isinstance(h, Blocked)] == [message] * messages
    assert steps[-1] == NodeDone("2", None)
    assert not bench.contents.saved


async def test_a_second_run_is_cached_and_shows_the_old_files() -> None:
    bench = Bench()
    bench.cache = NodeCache()
    *_, saved = await bench.run({"1": EMPTY, "2": save("1")})
    assert isinstance(saved, NodeDone)
    again = NodeDone("2", saved.ui, cached=True)
    assert await bench.run({"1": EMPTY, "2": save("1")}) == [Cached(["1", "2"]), again]
    assert len(bench.contents.saved) == 1


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


async def test_a_change_upstream_runs_all_that_follows() -> None:
    bench = Bench()
    bench.cache = NodeCache()
    await bench.run({"1": EMPTY, "2": save("1")})
    other = EMPTY | {"inputs": EMPTY["inputs"] | {"color": 0}}  # type: ignore[operator]
    assert (await bench.run({"1": other, "2": save("1")}))[0] == Cached([])


async def test_without_a_cache_everything_runs() -> None:
    bench = Bench()
    first = await bench.run({"1": EMPTY, "2": save("1")})
    assert named(await bench.run({"1": EMPTY, "2": save("1")})) == named(first)


async def test_a_volatile_node_and_what_follows_are_never_cached() -> None:
    bench = Bench()
    bench.cache = NodeCache()
    graph = {
        "1": node("SimulatorWait", seconds=0.0, value="x"),
        "2": node("PreviewAny", source=["1", 0]),
    }
    await bench.run(graph)
    assert (await bench.run(graph))[0] == Cached([])


async def test_a_failure_is_not_cached() -> None:
    bench = Bench()
    bench.cache = NodeCache()
    graph = {"1": node("SimulatorRaise", kind="ValueError", message="no")}
    await bench.run(graph)
    assert named(await bench.run(graph)) == ["Cached", "NodeStarted 1", "NodeFailed 1"]


async def test_the_cache_keeps_the_newest() -> None:
    cache = NodeCache(2)
    for name in "abc":
        cache.put(name, Output((name,)))
    assert [cache.get(name) for name in "abc"] == [None, Output(("b",)), Output(("c",))]
    cache.clear()
    assert cache.get("c") is None


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


async def test_the_waiting_node_heeds_a_cancel() -> None:
    bench = Bench()
    graph = {"1": node("SimulatorWait", seconds=3600)}
    async with contextlib.aclosing(bench.start(graph)) as steps:
        assert isinstance(await anext(steps), Cached)
        assert await anext(steps) == NodeStarted("1")


async def test_the_waiting_node_hands_on_its_value() -> None:
    graph = {
        "1": node("SimulatorWait", seconds=0.01, value="late"),
        "2": node("PreviewAny", source=["1", 0]),
    }
    assert (await Bench().run(graph))[-1] == NodeDone("2", {"text": ["late"]})


async def test_pace_is_the_time_of_a_step() -> None:
    bench = Bench()
    bench.pace = 0.02
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await bench.run(sampling(steps=3))
    assert loop.time() - begun >= 0.06


async def test_a_partner_node_without_a_key_says_what_to_do() -> None:
    failed = (await Bench().run({"1": _partner(), "2": save("1")}))[-1]
    assert isinstance(failed, NodeFailed)
    assert failed.exception_message == "Unauthorized: Please login first to use this node.\n"


async def test_a_partner_node_with_a_key_paints() -> None:
    bench = Bench()
    bench.extra_data = {"api_key_comfy_org": "comfyui-key"}
    steps = await bench.run({"1": _partner(), "2": save("1")})
    assert [h.text for h in steps if isinstance(h, StepText)][-1] == "Status: Ready\nPrice: $0.0500"
    (file,) = bench.contents.files.values()
    width, height = Image.open(io.BytesIO(file)).size
    assert width / height == pytest.approx(16 / 9, rel=0.01)
    assert b"comfyui-key" not in file


def _partner() -> dict[str, Any]:
    return node(
        "FluxProUltraImageNode",
        prompt="a teal sea",
        prompt_upsampling=False,
        seed=1,
        aspect_ratio="16:9",
        raw=False,
    )


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


async def test_a_plain_tuple_is_enough_for_an_output() -> None:
    async def shout(inputs: dict[str, Any], _context: object) -> tuple[str]:
        return (inputs["text"].upper(),)

    bench = Bench(NodeClass("Shout", shout, required={"text": ["STRING", {}]}, outputs=("STRING",)))
    graph = {"1": node("Shout", text="hey"), "2": node("PreviewAny", source=["1", 0])}
    assert (await bench.run(graph))[-1] == NodeDone("2", {"text": ["HEY"]})


async def test_a_long_chain_runs_to_its_end() -> None:
    graph: dict[str, Any] = {"0": EMPTY}
    for i in range(1, 200):
        graph[str(i)] = node("ImageInvert", image=[str(i - 1), 0])
    graph["end"] = preview("199")
    assert (await Bench().run(graph))[-1].node_id == "end"  # type: ignore[union-attr]
