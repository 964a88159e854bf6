"""What graphs have to pass before their jobs are taken, over a real catalog."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import graphs
import pytest
from yarl import URL

from proxy.catalog import service
from proxy.catalog.service import Catalog
from proxy.catalog.source import Accounts
from proxy.cloud.errors import CloudUnreachable
from proxy.cloud.upstream import Capabilities
from proxy.jobs.checks import FRESH, Checks
from proxy.jobs.models import JobRequest
from proxy.members.member import Limits, Member
from proxy.sharing.turns import thread_turns
from proxy.simulator.nodes import object_info, standard_nodes
from proxy.translate.errors import LocalError
from proxy.translate.names import is_hash_name, split_annotated

HASH = "ab" * 32 + ".png"
HIDDEN = "cd" * 32 + ".png"


@dataclass
class Cloud:
    """A cloud's catalog, whose calls are counted."""

    classes: dict[str, Any] = field(default_factory=lambda: object_info(standard_nodes()))
    base_url: URL = field(default_factory=lambda: URL("https://cloud.example"))
    replaced: dict[str, Any] = field(default_factory=dict)
    calls: int = 0
    down: bool = False
    capabilities: Capabilities = field(default_factory=Capabilities)

    async def object_info(self) -> bytes:
        self.calls += 1
        if self.down:
            raise CloudUnreachable("down")
        return json.dumps(self.classes).encode()

    async def model_folders(self) -> list[dict[str, Any]]:
        return []

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        return None

    async def global_subgraphs(self) -> dict[str, Any]:
        return {}

    async def global_subgraph(self, id_: str) -> dict[str, Any] | None:
        return None

    async def node_replacements(self) -> dict[str, Any]:
        return self.replaced

    async def template_picture(self, name: str) -> None:
        return None

    async def model_preview(self, folder: str, index: int, file: str) -> None:
        return None


@dataclass
class Members:
    """Members that may all run the same classes."""

    has_members: bool = False
    denied: tuple[str, ...] = ()

    def get(self, name: str) -> Member:
        return Member(name, limits=Limits(denied_classes=self.denied))


class Files:
    """Anna has `cat.png`, which the cloud calls HASH."""

    async def owned(
        self, member: str, strings: Collection[str], *, private: bool
    ) -> Callable[[str], bool]:
        def owns(name: str) -> bool:
            if member == "anna" and name == "cat.png":
                return True
            bare = split_annotated(name)[0]
            return is_hash_name(name) and (not private or (member == "anna" and bare == HASH))

        return owns


@dataclass
class Bench:
    """A catalog and checks upon it."""

    cloud: Cloud
    catalog: Catalog
    members: Members = field(default_factory=Members)

    async def check(self, graph: dict[str, Any], member: str = "anna", **fields: Any) -> Any:
        checks = Checks(
            self.catalog,
            Files(),  # type: ignore[arg-type]
            self.members,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            catalog_timeout=5.0,
            turns=thread_turns(),
        )
        return await checks.check(member, JobRequest(graph=graph, **fields))

    async def refusal(self, graph: dict[str, Any], member: str = "anna") -> LocalError:
        with pytest.raises(LocalError) as caught:
            await self.check(graph, member)
        return caught.value

    def age(self, seconds: float) -> None:
        """Let time pass since the catalog was fetched."""
        self.catalog._nodes._fetched_at -= seconds


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    cloud = Cloud()
    catalog = Catalog(
        Accounts(cloud.base_url, lambda: [cloud], {"default": cloud}), tmp_path, max_age=3600.0
    )
    await catalog.start()
    yield Bench(cloud, catalog)
    await catalog.close()


async def test_a_good_graph_passes(bench: Bench) -> None:
    found = await bench.check(graphs.plain())
    assert found.faultless
    assert found.outputs == ["2"]


async def test_a_refusal_has_comfyuis_form(bench: Bench) -> None:
    error = await bench.refusal({"1": {"class_type": "SaveImage", "inputs": {}}})
    assert error.kind == "invalid"
    body = error.body()
    assert body["error"] == {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "Required input is missing: images\nRequired input is missing: filename_prefix",
        "extra_info": {},
    }
    assert list(body["node_errors"]) == ["1"]


async def test_good_outputs_pass_with_what_is_wrong_with_the_others(bench: Bench) -> None:
    graph = graphs.plain()
    graph["3"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}}
    found = await bench.check(graph)
    assert found.outputs == ["2"]
    assert list(found.node_errors) == ["3"]


async def test_only_a_catalog_that_was_read_for_it_refuses_a_name(bench: Bench) -> None:
    for count in range(service.REREADS):
        error = await bench.refusal({"1": {"class_type": "NoSuchNode", "inputs": {}}})
        assert error.type == "missing_node_type"
        assert bench.cloud.calls == count + 2


async def test_a_member_that_has_caused_many_readings_leaves_names_to_the_cloud(
    bench: Bench,
) -> None:
    wrong = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
    for _ in range(service.REREADS):
        await bench.refusal(wrong)
    calls = bench.cloud.calls
    assert await bench.check(wrong) is None
    assert bench.cloud.calls == calls


async def test_unknown_names_together_cost_one_call(bench: Bench) -> None:
    await bench.check(graphs.plain())
    wrong = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
    await asyncio.gather(*(bench.refusal(wrong) for _ in range(service.REREADS)))
    assert bench.cloud.calls in (2, 3)


async def test_other_errors_cost_no_call_as_long_as_the_catalog_is_fresh(bench: Bench) -> None:
    graph = graphs.plain()
    graph["2"]["inputs"].pop("images")
    for _ in range(3):
        await bench.refusal(graph)
    assert bench.cloud.calls == 1


async def test_good_graphs_never_wait_for_a_fresh_catalog(bench: Bench) -> None:
    await bench.check(graphs.plain())
    bench.age(FRESH + 1)
    await bench.check(graphs.plain())
    assert bench.cloud.calls == 1


async def test_a_class_that_is_new_at_the_cloud_is_known(bench: Bench) -> None:
    await bench.check(graphs.plain())
    bench.cloud.classes["SaveBetter"] = bench.cloud.classes["SaveImage"]
    graph = graphs.plain()
    graph["2"]["class_type"] = "SaveBetter"
    bench.age(FRESH + 1)
    assert (await bench.check(graph)).outputs == ["2"]


async def test_a_model_that_is_new_at_the_cloud_is_known(bench: Bench) -> None:
    await bench.check(graphs.plain())
    spec = bench.cloud.classes["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    spec[0] = [*spec[0], "new.safetensors"]
    graph = graphs.sampled()
    graph["4"]["inputs"]["ckpt_name"] = "new.safetensors"
    bench.age(FRESH + 1)
    assert (await bench.check(graph)).faultless


async def test_when_the_cloud_is_down_no_copy_refuses_a_name(bench: Bench) -> None:
    await bench.check(graphs.plain())
    bench.cloud.down = True
    assert await bench.check({"1": {"class_type": "NoSuchNode", "inputs": {}}}) is None


async def test_when_the_cloud_is_down_the_copy_decides_about_the_rest(bench: Bench) -> None:
    await bench.check(graphs.plain())
    bench.cloud.down = True
    bench.age(FRESH + 1)
    graph = graphs.plain()
    graph["2"]["inputs"].pop("images")
    assert (await bench.refusal(graph)).type == "prompt_outputs_failed_validation"


async def test_without_a_catalog_the_cloud_decides(tmp_path: Path) -> None:
    cloud = Cloud(down=True)
    catalog = Catalog(
        Accounts(cloud.base_url, lambda: [cloud], {"default": cloud}), tmp_path, max_age=3600.0
    )
    await catalog.start()
    try:
        wrong = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
        assert await Bench(cloud, catalog).check(wrong) is None
    finally:
        await catalog.close()


async def test_a_class_that_the_cloud_replaces_is_its_own_business(bench: Bench) -> None:
    bench.cloud.replaced = {"OldNode": [{"new_node_id": "SaveImage"}]}
    assert await bench.check({"1": {"class_type": "OldNode", "inputs": {}}}) is None


NODES = {
    "an output": {"class_type": "SaveImage"},
    "a loose node": {"class_type": "EmptyImage"},
    "a class without inputs": {"class_type": "Bare"},
    "a loose output": {"class_type": "PreviewImage"},
}


@pytest.mark.parametrize("inputs", [[], ["a"], "a", 5, None, True], ids=str)
@pytest.mark.parametrize("node", NODES)
async def test_inputs_that_are_no_object_are_refused_with_the_node(
    bench: Bench, node: str, inputs: Any
) -> None:
    bench.cloud.classes["Bare"] = {"input": {}, "output": [], "python_module": "nodes"}
    graph = {**graphs.plain(), "7": {**NODES[node], "inputs": inputs}}
    body = (await bench.refusal(graph)).body()
    assert list(body["node_errors"]) == ["7"]
    assert body["error"]["details"] == "Node ID '#7'"


async def test_inputs_of_a_node_may_be_absent(bench: Bench) -> None:
    graph = {**graphs.plain(), "7": {"class_type": "EmptyImage"}}
    assert (await bench.check(graph)).outputs == ["2"]


async def test_what_a_member_may_not_use_is_refused(bench: Bench) -> None:
    bench.members.denied = ("SaveImage",)
    assert (await bench.refusal(graphs.plain())).kind == "forbidden"


async def test_a_great_graph_is_checked_and_a_giant_one_is_the_clouds(bench: Bench) -> None:
    graph = {str(number): graphs.plain()["1"] for number in range(3, 2000)} | graphs.plain()
    assert (await bench.check(graph)).outputs == ["2"]
    graph = {str(number): {"class_type": "NoSuchNode"} for number in range(20_000)}
    assert await bench.check(graph) is None


@pytest.mark.parametrize("name", ["cat.png", HASH])
async def test_a_member_may_use_its_own_files(bench: Bench, name: str) -> None:
    bench.members.has_members = True
    assert (await bench.check(graphs.inverted(name))).faultless


@pytest.mark.parametrize("name", [HASH, HIDDEN, f"{HIDDEN} [output]", "cat.png", "dog.png"])
async def test_other_members_files_are_as_unknown_as_what_there_is_not(
    bench: Bench, name: str
) -> None:
    bench.members.has_members = True
    bench.cloud.classes = object_info(standard_nodes(), [HASH])
    error = await bench.refusal(graphs.inverted(name), "bert")
    (reason,) = error.node_errors["1"]["errors"]
    assert reason == {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": f"image - Invalid image file: {name}",
        "extra_info": {"input_name": "image"},
    }


async def test_without_members_a_name_of_the_clouds_is_taken(bench: Bench) -> None:
    assert (await bench.check(graphs.inverted(HASH))).faultless


@pytest.mark.parametrize(
    "value",
    [HASH, f"sub/{HASH}", f"blake3:{HASH}", f"./{HASH} [input]", HASH.upper(), {"a": [HASH]}],
)
async def test_a_name_of_the_clouds_is_looked_for_in_every_input(bench: Bench, value: Any) -> None:
    bench.members.has_members = True
    graph = graphs.plain()
    graph["3"] = {"class_type": "PreviewAny", "inputs": {"source": value}}
    error = await bench.refusal(graph, "bert")
    assert list(error.node_errors) == ["3"]
    bench.members.has_members = False
    assert (await bench.check(graph, "bert")).faultless
