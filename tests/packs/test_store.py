"""Pictures and results as bytes: counted in the budget for as long as they are in memory."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import pytest
from PIL import Image

from proxy.files.pictures import PictureWorkers
from proxy.packs import store
from proxy.packs.nodes import PackNodeError
from proxy.packs.store import PictureStore
from proxy.sharing.budget import MemoryBudget, MemoryLimitError
from proxy.storage.database import Database
from proxy.storage.temporary import PackPictureRepository

MB = 1024 * 1024
ITEM = {"filename": "a.png"}


@dataclass
class Uploads:
    """Empty files in a folder."""

    folder: Path

    @asynccontextmanager
    async def partial(self) -> AsyncIterator[Path]:
        yield self.folder / "partial"


class Files:
    """One file of the cloud's, on disk."""

    def __init__(self, folder: Path, data: bytes) -> None:
        self.path = folder / "output.png"
        self.path.write_bytes(data)
        self.uploads = Uploads(folder)
        self.picture_workers = PictureWorkers()

    @asynccontextmanager
    async def output(self, _member: str, _item: Any, *, account: str) -> AsyncIterator[Path]:
        yield self.path


@pytest.fixture
def budget() -> MemoryBudget:
    return MemoryBudget(4 * MB)


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[Any]:
    made = Files(tmp_path, graphs.png(size=64))
    yield made
    await made.picture_workers.close()


@pytest.fixture
def pictures(database: Database, budget: MemoryBudget, files: Any) -> PictureStore:
    return PictureStore(PackPictureRepository(database), files, budget)


def held(budget: MemoryBudget) -> int:
    return budget.held().get("picture", 0)


async def test_a_picture_counts_while_it_is_open(
    pictures: PictureStore, budget: MemoryBudget
) -> None:
    assert await pictures.put("ann", "a", bytes(MB), "image/png")
    async with pictures.opened("ann", "a") as found:
        assert found == (bytes(MB), "image/png")
        assert held(budget) == MB
    assert held(budget) == 0
    async with pictures.opened("ann", "b") as unknown:
        assert unknown is None


async def test_pictures_beyond_the_share_of_a_member_are_refused_before_they_are_read(
    pictures: PictureStore, budget: MemoryBudget
) -> None:
    await pictures.put("ann", "a", bytes(MB), "")
    await pictures.put("ann", "large", bytes(3 * MB), "")
    async with pictures.opened("ann", "a"), pictures.opened("ann", "a"):
        with pytest.raises(MemoryLimitError) as caught:
            async with pictures.opened("ann", "a"):
                pass
        assert caught.value.kind == "rate_limited"
    with pytest.raises(MemoryLimitError) as caught:
        async with pictures.opened("ann", "large"):
            pass
    assert caught.value.kind == "too_large"
    assert held(budget) == 0


async def test_a_result_waits_for_memory_that_others_hold(
    pictures: PictureStore, budget: MemoryBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MEMORY_INTERVAL", 0.01)
    others = budget.member("ann", "body")
    others.grow(2 * MB)
    allocation = budget.member("ann", "picture")
    waiting = asyncio.create_task(
        pictures.result_bytes("ann", ITEM, "PNG", allocation, account="main", waits=True)
    )
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    others.release()
    data = await waiting
    assert allocation.size == len(data)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (64, 64)


async def test_a_result_waits_only_so_long(
    pictures: PictureStore, budget: MemoryBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_MEMORY_TIMEOUT", 0.05)
    monkeypatch.setattr(store, "_MEMORY_INTERVAL", 0.01)
    budget.member("ann", "body").grow(2 * MB)
    with pytest.raises(MemoryLimitError):
        await pictures.result_bytes(
            "ann", ITEM, None, budget.member("ann", "picture"), account="main", waits=True
        )


async def test_a_result_that_never_fits_fails_its_node(database: Database, files: Any) -> None:
    budget = MemoryBudget(100)
    pictures = PictureStore(PackPictureRepository(database), files, budget)
    with pytest.raises(PackNodeError) as caught:
        await pictures.result_bytes(
            "ann", ITEM, "BMP", budget.member("ann", "picture"), account="main", waits=True
        )
    assert caught.value.exception_type == "MemoryError"
    assert "memory_mb" in caught.value.message
