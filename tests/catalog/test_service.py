"""The catalog over a cloud that counts its calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from proxy.catalog.service import Catalog
from proxy.catalog.source import Accounts
from proxy.cloud.errors import CloudUnreachable
from proxy.translate.errors import LocalError

NODES = {
    "LoadImage": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
    "SaveImage": {"output_node": True},
}


class CountingCloud:
    """Two node classes and three model folders."""

    def __init__(self, url: str = "https://cloud.example") -> None:
        self.base_url = URL(url)
        self.calls: list[str] = []
        self.down = False

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise CloudUnreachable("down")

    async def object_info(self) -> bytes:
        self._called("object_info")
        return json.dumps(NODES).encode()

    async def model_folders(self) -> list[dict[str, Any]]:
        self._called("folders")
        names = "loras", "embeddings", "vae", "configs"
        return [{"name": name, "folders": [name]} for name in names]

    async def models(self, folder: str) -> list[dict[str, Any]] | None:
        self._called(folder)
        found = {
            "loras": ["b.safetensors", "a/c.safetensors"],
            "embeddings": ["bad.pt", "n/x.y.pt"],
        }
        names = found.get(folder)
        return None if names is None else [{"name": name, "pathIndex": 0} for name in names]


@asynccontextmanager
async def catalog_of(cloud: CountingCloud, folder: Path) -> AsyncIterator[Catalog]:
    catalog = Catalog(
        Accounts(cloud.base_url, lambda: [cloud], {"default": cloud}), folder, max_age=3600
    )
    await catalog.start()
    yield catalog
    await catalog.close()


@pytest.fixture
def cloud() -> CountingCloud:
    return CountingCloud()


@pytest.fixture
async def catalog(cloud: CountingCloud, tmp_path: Path) -> AsyncIterator[Catalog]:
    async with catalog_of(cloud, tmp_path) as made:
        yield made


async def test_it_knows_nothing_before_it_is_loaded_and_does_not_wait(
    catalog: Catalog,
) -> None:
    shape = await catalog.shapes("local")
    assert catalog.known("SaveImage") is shape("SaveImage") is None


async def test_start_begins_to_load(catalog: Catalog, cloud: CountingCloud) -> None:
    assert (await catalog.node_class("SaveImage") or {})["output_node"]
    assert (catalog.known("SaveImage") or {})["output_node"]
    shapes = await catalog.shapes("local")
    assert catalog.known("Nope") is shapes("Nope") is None
    assert (shape := shapes("SaveImage")) is not None
    assert shape.output_node
    assert shapes("SaveImage") is shape
    assert cloud.calls == ["object_info"]


async def test_the_members_files_are_in_both_answers(catalog: Catalog) -> None:
    single = json.loads(await catalog.node_class_json("local", "LoadImage", {"cat.png": 5}))
    whole = json.loads(b"".join((await catalog.object_info("local", {"cat.png": 5})).pieces))
    choices = single["LoadImage"]["input"]["required"]["image"][0]
    assert choices == ["cat.png", "x.png"]
    assert whole["LoadImage"] == single["LoadImage"]
    assert list(await catalog.classes("local")) == list(whole)


async def test_clients_of_a_cold_start_wait_for_one_call_together(
    catalog: Catalog, cloud: CountingCloud
) -> None:
    bodies = await asyncio.gather(*(catalog.object_info("local", {}) for _ in range(20)))
    assert len({body.etag for body in bodies}) == 1
    assert cloud.calls == ["object_info"]


async def test_the_entity_tag_outlives_the_copy(cloud: CountingCloud, tmp_path: Path) -> None:
    tags = []
    for run in "first", "second":
        async with catalog_of(cloud, tmp_path / run) as catalog:
            tags.append((await catalog.object_info("local", {}, "gzip")).etag)
    assert tags[0] == tags[1]


async def test_models_are_asked_for_once_a_folder(catalog: Catalog, cloud: CountingCloud) -> None:
    for _ in range(3):
        assert await catalog.models("local", "loras") == ["a/c.safetensors", "b.safetensors"]
    assert cloud.calls.count("loras") == 1
    assert cloud.calls.count("folders") == 1


async def test_an_empty_folder_is_a_list_and_an_unknown_one_is_none(
    catalog: Catalog, cloud: CountingCloud
) -> None:
    assert await catalog.models("local", "vae") == []
    assert await catalog.models("local", "../etc") is None
    assert await catalog.models_in_detail("local", "nope") is None
    assert not {"../etc", "nope"} & set(cloud.calls)


async def test_details_have_every_field(catalog: Catalog) -> None:
    models = await catalog.models_in_detail("local", "loras")
    assert (models or [])[0] == {
        "name": "b.safetensors",
        "pathIndex": 0,
        "modified": 0.0,
        "created": 0.0,
        "size": 0,
    }


async def test_folders_are_named_and_the_detailed_ones_hold_models(catalog: Catalog) -> None:
    named = await catalog.model_folders()
    detailed = [folder["name"] for folder in await catalog.model_folders_in_detail()]
    assert named[:4] == ["loras", "embeddings", "vae", "configs"]
    assert detailed[:3] == ["loras", "embeddings", "vae"]
    assert set(named) - set(detailed) == {"configs", "custom_nodes"}


async def test_each_folder_says_which_files_it_lists(catalog: Catalog) -> None:
    detailed = {folder["name"]: folder for folder in await catalog.model_folders_in_detail()}
    assert ".safetensors" in detailed["loras"]["extensions"]
    assert detailed["diffusers"]["extensions"] == ["folder"]
    assert all(folder["extensions"] for folder in detailed.values())


async def test_a_folder_of_every_comfyui_that_the_cloud_lacks_is_empty(
    catalog: Catalog,
) -> None:
    assert "checkpoints" in await catalog.model_folders()
    assert await catalog.models("local", "checkpoints") == []


async def test_embeddings_have_no_extension(catalog: Catalog) -> None:
    assert await catalog.embeddings("local") == ["bad", "n/x.y"]


async def test_a_restart_does_not_ask_again(cloud: CountingCloud, tmp_path: Path) -> None:
    for _ in range(2):
        async with catalog_of(cloud, tmp_path) as catalog:
            await catalog.classes("local")
            await catalog.models("local", "loras")
    assert sorted(cloud.calls) == ["folders", "loras", "object_info"]


async def test_lists_of_models_are_lists_when_only_the_node_classes_are_stored(
    cloud: CountingCloud, tmp_path: Path
) -> None:
    """The web interface opens then, and cannot use an error in the place of a list."""
    async with catalog_of(cloud, tmp_path) as catalog:
        await catalog.node_class("LoadImage")
    cloud.down = True
    async with catalog_of(cloud, tmp_path) as catalog:
        detailed = await catalog.model_folders_in_detail()
        assert "checkpoints" in [folder["name"] for folder in detailed]
        assert await catalog.models("local", "checkpoints") == []
        assert await catalog.embeddings("local") == []
        assert await catalog.models("local", "nowhere") is None


async def test_the_copy_of_another_cloud_is_dropped(cloud: CountingCloud, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("not the catalog's")
    async with catalog_of(cloud, tmp_path) as catalog:
        await catalog.classes("local")
    other = CountingCloud("http://127.0.0.1:9")
    async with catalog_of(other, tmp_path) as catalog:
        await catalog.classes("local")
    assert other.calls == ["object_info"]
    assert (tmp_path / "mine.txt").exists()


async def test_without_cloud_and_copy_it_is_503(cloud: CountingCloud, tmp_path: Path) -> None:
    cloud.down = True
    async with catalog_of(cloud, tmp_path) as catalog:
        for ask in (
            catalog.classes("local"),
            catalog.model_folders(),
            catalog.models("local", "loras"),
        ):
            with pytest.raises(LocalError, match="The proxy has not received"):
                await ask
