"""The pack of docs/node-packs.md: installed as a distribution, and used through a running proxy."""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from process import before, serving
from stack import Client

from proxy.packs.discovery import GROUP, INSTALLED, usable
from proxy.simulator import Simulator

ROOT = Path(__file__).parents[2]
OWN = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"][GROUP]


def shown(language: str) -> str:
    """The block of the page in a language."""
    page = (ROOT / "docs" / "node-packs.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(block)


def install(folder: Path, *, module: str = "", name: str = "") -> None:
    """Install the distribution of the page, or one with another module or name, in a folder."""
    project = tomllib.loads(shown("toml"))["project"]
    (pack, value), *_ = project["entry-points"][GROUP].items()
    written, version = name or project["name"], project["version"]
    (folder / f"{value.partition(':')[0]}.py").write_text(module or shown("python"))
    metadata = folder / f"{written.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {written}\nVersion: {version}\n"
    )
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{pack} = {value}\n")


def environment(simulator: Simulator, folder: Path) -> dict[str, str]:
    return {**before(simulator), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


GRAPH = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "ExampleSend", "inputs": {"images": ["1", 0]}},
}


async def test_a_client_uses_a_pack_that_its_author_ships(
    simulator: Simulator, tmp_path: Path
) -> None:
    (folder := tmp_path / "packages").mkdir()
    install(folder)
    async with (
        serving(tmp_path / "data", environment=environment(simulator, folder)) as server,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, server.url)
        await client.until_ready()
        _, shown_class = await client.get("object_info/ExampleSend")
        assert shown_class["ExampleSend"]["python_module"] == "custom_nodes.example-nodes"
        assert await client.get("example/version") == (
            200,
            {"version": "1.0", "member": "local"},
        )
        async with client.listening() as listener:
            prompt_id = await client.submit(GRAPH)
            await listener.until_end(prompt_id)
        (sent,) = listener.of("binary")
        assert sent.startswith(bytes((0, 0, 0, 1, 0, 0, 0, 2)) + b"\x89PNG")
        assert (await client.history(prompt_id))["prompt"][2] == GRAPH


async def test_a_pack_whose_code_fails_fails_its_node_alone(
    simulator: Simulator, tmp_path: Path
) -> None:
    (folder := tmp_path / "packages").mkdir()
    broken = shown("python").replace("frame(result, item.data, 2)", "item.picture")
    install(folder, module=broken)
    async with (
        serving(tmp_path / "data", environment=environment(simulator, folder)) as server,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, server.url)
        await client.until_ready()
        entry = await client.run(GRAPH)
        (error,) = [
            data for type_, data in entry["status"]["messages"] if type_ == "execution_error"
        ]
        assert (error["node_id"], error["exception_type"]) == ("2", "AttributeError")


async def test_a_pack_that_cannot_be_imported_is_left_out_and_logged(
    simulator: Simulator, tmp_path: Path
) -> None:
    (folder := tmp_path / "packages").mkdir()
    install(folder, module="import no_such_module\n")
    async with (
        serving(tmp_path / "data", environment=environment(simulator, folder)) as server,
        aiohttp.ClientSession() as session,
    ):
        client = Client(session, server.url)
        await client.until_ready()
        assert (await client.get("object_info/ExampleSend"))[1] == {}
        assert (await client.get("object_info/ETN_SaveImageCache"))[1] != {}
        await server.stop()
    (line,) = [line for line in server.said if b"pack_refused" in line]
    assert b"No module named 'no_such_module'" in line


# --- which packs are used -------------------------------------------------------------------------


def point(name: str, value: str, distribution: str) -> EntryPoint:
    """The entry point of a distribution."""
    found = EntryPoint(name, value, GROUP)
    vars(found).update(dist=SimpleNamespace(name=distribution))
    return found


HOUDINI = "proxy.packs.houdini:PACK"


def test_our_packs_are_registered_as_all_others() -> None:
    assert sorted(pack.name for pack in INSTALLED.packs) == sorted(OWN)
    assert INSTALLED.problems == ()


def test_a_pack_of_another_distribution_replaces_ours_of_its_name() -> None:
    found = usable(
        [
            point("houdini-connection", "proxy.packs.swarm:PACK", "houdini-for-proxy"),
            point("houdini-connection", HOUDINI, "comfy-cloud-proxy"),
        ]
    )
    assert [pack.name for pack in found.packs] == ["SwarmUI"]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("copy", HOUDINI, "ValueError: the pack houdini-connection also has "),
        ("no-pack", "proxy.packs.houdini:info", "is not a proxy.packs.pack.Pack"),
        ("none", "proxy.packs.houdini:NOTHING", "AttributeError"),
    ],
)
def test_a_pack_that_cannot_be_used_is_left_out_with_a_reason(
    name: str, value: str, reason: str
) -> None:
    ours = point("houdini-connection", HOUDINI, "comfy-cloud-proxy")
    found = usable([point(name, value, "others"), ours])
    assert [pack.name for pack in found.packs] == ["houdini-connection"]
    (problem,) = found.problems
    assert problem.startswith(f"The pack {name} of others is not used: ")
    assert reason in problem


def test_of_two_strangers_with_one_name_the_first_is_used() -> None:
    ours = point("websocket_image_save", "proxy.packs.websocket_image:PACK", "comfy-cloud-proxy")
    found = usable([point("x", HOUDINI, "b"), point("x", "proxy.packs.swarm:PACK", "a"), ours])
    assert [pack.name for pack in found.packs] == ["websocket_image_save", "SwarmUI"]
    assert found.problems == ("The pack x of b is not used: a has one of this name.",)


def test_a_source_that_is_not_installed_says_so() -> None:
    (problem,) = usable([]).problems
    assert problem.startswith("The packs of comfy-cloud-proxy are missing")
