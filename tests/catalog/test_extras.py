"""Subgraphs, node replacements and pictures of models, from a simulated cloud over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.catalog import source
from proxy.catalog.extras import CatalogExtras
from proxy.catalog.service import Catalog
from proxy.catalog.source import Accounts, Picture, PictureCache
from proxy.cloud.client import CloudClient
from proxy.cloud.errors import CloudUnreachable
from proxy.cloud.resilience import RetryPolicy
from proxy.runtime.backoff import Backoff
from proxy.simulator import HttpFault, Simulator
from proxy.simulator.nodes import MODEL_FILES

QUICK = RetryPolicy(budget=0.2, backoff=Backoff(first=0.01, longest=0.05))
ID = "invert_picture_simulator"


@asynccontextmanager
async def extras_of(simulator: Simulator, folder: Path) -> AsyncIterator[CatalogExtras]:
    client = CloudClient(simulator.base_url, simulator.key, retries=QUICK)
    await client.start()
    catalog = Catalog(
        Accounts(client.base_url, lambda: [client], {"default": client}), folder, max_age=60
    )
    try:
        yield catalog.extras
    finally:
        await catalog.close()
        await client.close()


@pytest.fixture
async def extras(simulator: Simulator, tmp_path: Path) -> AsyncIterator[CatalogExtras]:
    async with extras_of(simulator, tmp_path) as opened:
        yield opened


async def test_subgraphs_are_listed_without_their_contents(extras: CatalogExtras) -> None:
    (about,) = (await extras.subgraphs()).values()
    assert set(about) == {"source", "name", "info"}


async def test_one_subgraph_has_its_content(extras: CatalogExtras) -> None:
    found = await extras.subgraph(ID)
    assert found is not None
    assert json.loads(found["data"])["definitions"]


async def test_one_that_is_not_listed_is_not_asked_for(
    simulator: Simulator, extras: CatalogExtras
) -> None:
    assert await extras.subgraph("nope") is None
    assert await extras.subgraph("../user") is None
    assert simulator.calls["GET /api/global_subgraphs/{id}"] == 0


async def test_the_cloud_is_asked_once_and_not_again_after_a_restart(
    simulator: Simulator, tmp_path: Path
) -> None:
    for _ in range(2):
        async with extras_of(simulator, tmp_path) as extras:
            for _ in range(3):
                assert await extras.subgraph(ID)
                assert await extras.node_replacements()
    assert simulator.calls["GET /api/global_subgraphs"] == 1
    assert simulator.calls["GET /api/global_subgraphs/{id}"] == 1
    assert simulator.calls["GET /api/node_replacements"] == 1


async def test_what_the_cloud_does_not_give_is_empty(
    simulator: Simulator, extras: CatalogExtras
) -> None:
    simulator.faults.add(HttpFault("GET /api/*", status=503), times=None)
    assert await extras.subgraphs() == {}
    assert await extras.subgraph(ID) is None
    assert await extras.node_replacements() == {}


async def test_a_picture_is_asked_for_once(simulator: Simulator, extras: CatalogExtras) -> None:
    simulator.switches.model_previews = True
    name = MODEL_FILES["checkpoints"][0]
    found = await asyncio.gather(*(extras.preview("checkpoints", 0, name) for _ in range(5)))
    assert found[0] is not None
    assert found == [found[0]] * 5
    assert found[0][1] == "image/webp"
    await extras.preview("checkpoints", 0, name)
    assert sum(count for route, count in simulator.calls.items() if "preview" in route) == 1


async def test_a_picture_of_a_template_is_asked_for_once(
    simulator: Simulator, extras: CatalogExtras
) -> None:
    found = await asyncio.gather(*(extras.template_picture("x-1.webp") for _ in range(5)))
    assert found[0] is not None
    assert (found, found[0][1]) == ([found[0]] * 5, "image/webp")
    assert sum(count for route, count in simulator.calls.items() if "templates" in route) == 1
    simulator.switches.template_pictures = False
    assert await extras.template_picture("y-1.webp") is None


async def test_a_model_without_picture_is_asked_about_once(
    simulator: Simulator, extras: CatalogExtras
) -> None:
    for _ in range(3):
        assert await extras.preview("checkpoints", 0, "x.safetensors") is None
    assert sum(count for route, count in simulator.calls.items() if "preview" in route) == 1


async def test_pictures_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_BYTES", 3000)
    asked: list[str] = []

    async def ask(folder: str, index: int, name: str) -> Picture | None:
        asked.append(name)
        return b"x" * 1000, "image/webp"

    kept = PictureCache(ask, max_age=60)
    for name in ("a", "b", "a", "c", "a", "b"):
        assert await kept.get("loras", 0, name)
    assert asked == ["a", "b", "c", "b"]


@pytest.mark.parametrize("answer", [CloudUnreachable("gone"), (b"<html>", "text/html"), None])
async def test_what_is_no_picture_is_none(answer: Exception | Picture | None) -> None:
    async def ask(folder: str, index: int, name: str) -> Picture | None:
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert await PictureCache(ask, max_age=60).get("loras", 0, "a") is None
