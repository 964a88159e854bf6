"""`serve --simulate` in a process of its own, for clients that know nothing of this project."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from npm import node_modules
from process import serving
from yarl import URL

T = TypeVar("T")

#: What the tests of clients for Node.js install.
NODE_PACKAGES = ("@stable-canvas/comfyui-client@1.5.9", "ws@8")


class BackgroundLoop:
    """An event loop in a thread, so that a process is looked after while a client blocks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
    """Where the proxy listens."""
    loop = BackgroundLoop()
    manager = serving(tmp_path_factory.mktemp("data"), "--simulate")
    process = loop.run(manager.__aenter__())
    try:
        yield process.url
    finally:
        loop.run(manager.__aexit__(None, None, None))
        loop.close()


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose modules `NODE_PACKAGES` are; all workers of a run share it."""
    return node_modules(tmp_path_factory, "node", *NODE_PACKAGES)
