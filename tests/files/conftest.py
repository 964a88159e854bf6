"""Files on a folder of their own, before a cloud in memory or the simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from backend import open_database
from files.helpers import MemoryCloud

from proxy.cloud.client import CloudClient
from proxy.files.cache import Cache
from proxy.files.library import Library
from proxy.files.service import Files
from proxy.simulator import Simulator
from proxy.storage.files import FileRepository

OpenFiles = Callable[..., Awaitable[Files]]


@pytest.fixture
def cloud() -> MemoryCloud:
    return MemoryCloud()


@pytest.fixture
async def open_files(cloud: MemoryCloud, tmp_path: Path) -> AsyncIterator[OpenFiles]:
    """`await open_files()` starts a `Files` on the test's folder; again is a restart.

    It may be given another cloud, or several by the names of their accounts, and the folder of
    another `cache`.
    """
    async with AsyncExitStack() as stack:
        running = AsyncExitStack()
        stack.push_async_callback(lambda: running.aclose())

        async def start(other_cloud: Any = None, **options: Any) -> Files:
            nonlocal running
            await running.aclose()
            running = AsyncExitStack()
            database = await open_database(tmp_path)
            running.push_async_callback(database.close)
            clouds = (
                other_cloud if isinstance(other_cloud, dict) else {"default": other_cloud or cloud}
            )
            cache = Cache(
                options.pop("cache", tmp_path / "cache"), options.pop("cache_bytes", 10**9)
            )
            blobs, prefetch = options.pop("blobs", None), options.pop("prefetch", "off")
            library = Library(clouds, cache, FileRepository(database), blobs, prefetch)
            files = Files(library, **options)
            await files.start()
            running.push_async_callback(files.close)
            return files

        yield start


@pytest.fixture
async def files(open_files: OpenFiles) -> Files:
    return await open_files()


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[CloudClient]:
    """A real client of the simulator."""
    client = CloudClient(simulator.base_url, simulator.key)
    await client.start()
    yield client
    await client.close()
