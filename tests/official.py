"""The official v2 server, comfy-api-proxy, as a deployment, and a real ComfyUI to put it before.

Both are programs of their own: `COMFY_API_PROXY` can name the first, `COMFYUI` the folder with the
`main.py` of the second, and `COMFYUI_PYTHON` the Python that has what it requires.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
from servers import ServerProcess, free_port
from stack import Client, running_proxy

from proxy.settings import AccountSettings
from proxy.simulator import Simulator

_PLACES = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
COMMAND = os.environ.get("COMFY_API_PROXY") or shutil.which("comfy-api-proxy", path=_PLACES)
COMFYUI = os.environ.get("COMFYUI")

_KEY = "a-token-of-the-official-server"


@contextmanager
def comfyui(folder: Path) -> Iterator[str]:
    """The address of a ComfyUI that keeps its files in `folder`."""
    assert COMFYUI is not None
    port = free_port()
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    command: list[str | Path] = [python, Path(COMFYUI).resolve() / "main.py", "--cpu"]
    command += ["--port", str(port), "--disable-auto-launch"]
    for name in ("input", "output", "temp", "user"):
        (folder / name).mkdir(parents=True)
        command += [f"--{name}-directory", folder / name]
    server = ServerProcess("comfyui", port, command, folder)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


@contextmanager
def _before(comfyui: str, folder: Path) -> Iterator[AccountSettings]:
    """The official server before a ComfyUI, as an account."""
    assert COMMAND is not None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "key").write_text(_KEY)
    port = free_port()
    command = [COMMAND, "run", "--comfyui", comfyui, "--port", str(port), "--token", _KEY]
    server = ServerProcess("comfy-api-proxy", port, command, folder)
    server.start()
    try:
        yield AccountSettings(
            name="own",
            base_url=f"http://127.0.0.1:{port}",
            key_file=folder / "key",
            object_info=comfyui,
            slots=2,
        )
    finally:
        server.stop()


@asynccontextmanager
async def client_of(
    comfyui: str, folder: Path, session: aiohttp.ClientSession
) -> AsyncIterator[Client]:
    """A client of a proxy whose only account is the official server before a ComfyUI."""
    with _before(comfyui, folder) as account:
        async with (
            Simulator() as unused,
            running_proxy(unused, folder / "data", accounts=(account,)) as proxy,
        ):
            client = Client(session, proxy.url)
            await client.until_ready()
            yield client
