"""`serve --simulate` in a process of its own, for clients that know nothing of this project."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from filelock import FileLock
from process import serving
from yarl import URL

T = TypeVar("T")

#: What the tests of clients for Node.js install.
NODE_PACKAGES = ("@stable-canvas/comfyui-client@1.5.9", "ws@8")

#: A registry that cannot be reached is given up after seconds.
NPM_SOON = ("--fetch-retries=0", "--fetch-timeout=10000")


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
    manager = serving(tmp_path_factory.mktemp("data"), "--simulate", "--simulate-pace", "0.01")
    process = loop.run(manager.__aenter__())
    try:
        yield process.url
    finally:
        loop.run(manager.__aexit__(None, None, None))
        loop.close()


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose modules `NODE_PACKAGES` are; all workers of a run share it."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js with npm is not installed")
    folder = tmp_path_factory.getbasetemp().parent / "node"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "installed").exists():
            options = ("--no-audit", "--no-fund", *NPM_SOON, "--prefix", str(folder))
            command = [npm, "install", *options]
            try:
                subprocess.run(
                    [*command, *NODE_PACKAGES],
                    check=True,
                    capture_output=True,
                    text=True,
                    timeout=40,
                )
            except subprocess.TimeoutExpired:
                pytest.skip("npm's registry cannot be reached: no answer in 40 seconds")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"npm's registry cannot be reached: {error.stderr.strip()[-200:]}")
            (folder / "installed").touch()
    return folder
